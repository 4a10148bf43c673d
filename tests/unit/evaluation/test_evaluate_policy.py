"""Metrics of single-label sets are separate, set by set."""

from __future__ import annotations

import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.evaluation.compare import Answers
from affectgpt_r1.evaluation.evaluate_policy import metrics_on_test_split

LEXICON = load_lexicon("bundled")


def answers(**target_and_answer):
    said = [f"<answer>{answer}</answer>" for _, answer in target_and_answer.values()]
    targets = [target for target, _ in target_and_answer.values()]
    return Answers(
        list(target_and_answer), targets, [parse_completion(text, enable_thinking=False) for text in said], []
    )


def test_each_set_has_its_own_recalls():
    happy, sad, anxious = ("happy",), ("sad",), ("anxious",)
    metrics = metrics_on_test_split(
        answers(
            dfew_1=(happy, "happy"),
            dfew_2=(happy, "happy"),
            dfew_3=(happy, "sad"),
            dfew_4=(sad, "sad, happy"),
            mafw_1=(anxious, "anxiety"),
            mafw_2=(sad, "happy"),
        ),
        LEXICON,
    )
    recalls = {name: value for name, value in metrics.items() if name.split("/")[-1] in ("war", "uar", "unparsed_rate")}
    assert recalls == pytest.approx(
        {
            "test/dfew/war": 2 / 4,
            "test/dfew/uar": (2 / 3 + 0) / 2,
            "test/dfew/unparsed_rate": 1 / 4,
            "test/mafw/war": 1 / 2,
            "test/mafw/uar": (1 + 0) / 2,
            "test/mafw/unparsed_rate": 0,
        }
    )


def test_clips_of_other_sets_are_one_set_and_several_labels_none():
    plain = metrics_on_test_split(answers(a=(("happy",), "happy"), b=(("sad",), "happy")), LEXICON)
    assert (plain["test/war"], plain["test/uar"]) == (0.5, 0.5)
    several = metrics_on_test_split(answers(a=(("happy", "proud"), "happy")), LEXICON)
    assert not [name for name in several if name.endswith(("war", "uar"))]
