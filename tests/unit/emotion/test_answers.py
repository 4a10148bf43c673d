"""Answers in another form than a list of words: what is taken of each, and what is left to the published parser."""

import pytest

from affectgpt_r1.emotion.answers import read_answer
from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import load_lexicon

LEXICON = load_lexicon("bundled")


def read(text):
    return read_answer(text, lambda text: extract_labels(text, LEXICON))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("<answer>happy, sad</answer>", ("happy", "sad")),
        ("<think>He is angry.</think>\n<answer>happy</answer>", ("happy",)),
        ("<think>He is angry.</think> happy, sad", ("happy", "sad")),
        ('{"emotions": ["happy", "sad"], "score": 3}', ("happy", "sad")),
        ('{"openset": "happy, sad"}', ("happy", "sad")),
        ('```json\n["happy", "sad"]\n```', ("happy", "sad")),
        ("1. happy\n2. sad", ("happy", "sad")),
        ("- happy\n- at ease", ("happy", "at ease")),
        ("**happy**, *sad*, __calm__", ("happy", "sad", "calm")),
        ("# Emotions\nhappy", ("Emotions", "happy")),
        ("Emotions: happy, sad", ("happy", "sad")),
        ("Answer: [happy, sad].", ("happy", "sad")),
        ("happy \U0001f600, sad \u2639\ufe0f", ("happy", "sad")),
        ("**happy**\uff0csad\u3001\u9ad8\u5174", ("happy", "sad", "\u9ad8\u5174")),
        ("happy, sad.", ("happy", "sad")),
        ("Happy!", ("Happy",)),
        ("The character's emotional state is happy, sad.", ("happy", "sad")),
        ("He is not happy but rather sad about this", ("sad",)),
        ("{not json}", ("{not json}",)),
        ("{" * 100_000, ("{" * 100_000,)),
        ("<answer></answer>", ()),
        ("\U0001f600", ()),
    ],
)
def test_labels_of_answers(text, labels):
    assert read(text) == labels


@pytest.mark.parametrize(
    "text",
    ["happy, sad", "[happy, sad]", "['happy', \"sad\"]", "", "[]", "worry/anxiety", "light-hearted, self-mockery",
     "financial_security", "happy; sad", "[happy, trying to keep a good mood]"],
)  # fmt: skip
def test_lists_are_left_to_the_published_parser(text):
    assert read(text) is None
