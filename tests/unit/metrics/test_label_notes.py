"""What is said about labels that are probably not meant."""

import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.label_notes import label_notes, unmapped_words

LEXICON = load_lexicon("bundled")
GOOD = [("happy", "sad"), ("calm",), ("angry",)]


def said(labels):
    return label_notes(labels, LEXICON, "predictions")


def test_nothing_is_said_of_good_labels():
    assert said(GOOD) == []
    assert said([*GOOD * 10, ("emotional",), ("zzz",), ()]) == []


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (
            [("happy; sad",), ("calm",)],
            "the labels seem to be separated by ';', as in 'happy; sad'; put commas between them.",
        ),
        (
            [("happy|sad",), ("calm",)],
            "the labels seem to be separated by '|', as in 'happy|sad'; put commas between them.",
        ),
        ([("happy/sad",)], "the labels seem to be separated by '/', as in 'happy/sad'; put commas between them."),
        (
            [("happy\nsad",)],
            r"the labels seem to be separated by line breaks, as in 'happy\nsad'; put commas between them.",
        ),
        ([("高兴", "悲伤"), ("happy",)], "2 of 3 words are not in Latin letters; the lexicons are English."),
        ([("emotional", "happy"), ("N/A",)], "2 words name no emotion: emotional (1), N/A (1)."),
        ([(), (), ("happy",)], "2 of 3 samples have no label."),
        ([(), ()], "no sample has a label."),
        (
            [("the man looks rather happy today",), ("happy",)],
            "1 label is a sentence; name free text by --columns reason=COLUMN.",
        ),
        (
            [("zzz", "happy"), ("zzz", "yyy")],
            "3 of 4 words map onto no wheel: zzz (2), yyy (1); such words are not scored.",
        ),
    ],
)
def test_one_line_each(labels, line):
    assert f"predictions: {line}" in said(labels)


def test_at_most_ten_words_are_listed():
    unmapped = unmapped_words([tuple(f"w{n}" for n in range(n)) for n in range(1, 13)], LEXICON)
    assert (unmapped.num_unmapped, unmapped.num_words) == (78, 78)
    assert unmapped.commonest == [(f"w{n}", 12 - n) for n in range(10)]
