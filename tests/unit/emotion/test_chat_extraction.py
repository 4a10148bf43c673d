"""Emotion words and sentiment by a chat."""

import pytest

from affectgpt_r1.emotion.chat_extraction import sentiment_by, text_extractor
from affectgpt_r1.emotion.lexicon import load_lexicon

LEXICON = load_lexicon("bundled")


class Answering:
    """A chat that gives one answer."""

    identity = "answering"

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def __call__(self, prompt, instruction=""):
        self.asked.append((prompt, instruction))
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("[happy, calm]", ("happy", "calm")),
        ("[]", ()),
        ("The list is ['happy', \"sad\"].", ("happy", "sad")),
        ("First [sad], then [happy]", ("happy",)),
        ("happy, sad", ("happy", "sad")),
        ("] [", ("] [",)),
        ("<think>[sad]?</think> happy", ("happy",)),
        ("", ()),
    ],
)
def test_forms_of_answers(answer, words):
    assert text_extractor(LEXICON, Answering(answer))("She smiles.") == (words, (), "chat")


def test_the_text_is_the_prompt_and_the_instruction_wants_a_list():
    chat = Answering("[]")
    text_extractor(LEXICON, chat)("She smiles.")
    ((prompt, instruction),) = chat.asked
    assert prompt == "She smiles."
    assert "square brackets" in instruction


def test_a_well_formed_completion_is_parsed_not_asked():
    chat = Answering("[happy]")
    assert text_extractor(LEXICON, chat)("<answer>sad</answer>") == (("sad",), (), "answer")
    assert not chat.asked


def test_without_a_chat_the_text_is_searched():
    assert text_extractor(LEXICON, None)("not sad") == ((), ("not sad",), "text")


@pytest.mark.parametrize(
    ("answer", "sign"),
    [
        ("positive", 1),
        ("Negative.", -1),
        (" **neutral** ", 0),
        ("Positive, on the whole", 1),
        ("mixed", 0),
        ("<think>positive</think>negative", -1),
        ("", 0),
    ],
)
def test_sentiment(answer, sign):
    chat = Answering(answer)
    assert sentiment_by(chat)(("happy", "calm")) == sign
    assert chat.asked[0][0] == "happy, calm"


def test_no_words_have_no_sentiment_and_ask_nothing():
    chat = Answering("positive")
    assert sentiment_by(chat)(()) == 0
    assert not chat.asked
