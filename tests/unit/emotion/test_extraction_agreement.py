"""Labels found offline against those that a language model took from the same published answers; not learnt from."""

import os
from pathlib import Path

import pytest

from affectgpt_r1.emotion.extraction import AGREEMENT
from affectgpt_r1.emotion.lexicon import load_lexicon
from tools.extraction_agreement import agreement, read_answers

if not os.environ.get("AFFECTGPT_FIXTURES") or not os.environ.get("AFFECTGPT_WHEELS"):
    pytest.skip(
        "AFFECTGPT_FIXTURES and AFFECTGPT_WHEELS do not name published outputs and lexicons", allow_module_level=True
    )
ROOT = Path(os.environ["AFFECTGPT_FIXTURES"], "published_outputs")


@pytest.mark.parametrize(
    ("pattern", "every", "least"),
    [
        ("ov_merd/*/*-nosubtitle-eng", 10, 0.88),
        ("ov_merd/*/*-7b-subtitle-eng", 10, 0.80),
        ("ov_merd/*/*-addsub-eng", 10, 0.87),
        ("unibench/*/*/*0_loss_0.602", 20, 0.98),
    ],
)
def test_agreement_on_clips_that_were_not_learnt_from(pattern, every, least):
    answers = list(read_answers(ROOT, pattern, every=every))
    assert sum(len(system.names) for system in answers) > 100
    assert agreement(answers, load_lexicon("mer2025")) > least


def test_what_is_said_of_free_text():
    assert "0.89 for descriptions by seven models, 0.99 for answers" in AGREEMENT
