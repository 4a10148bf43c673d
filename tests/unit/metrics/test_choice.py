"""Accuracy and weighted F1 of chosen answers, against tables counted by hand and a slow reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.metrics.functional.choice import choice_scores

CLASSES = ("a1", "a2")


def slow_waf(pairs):
    total = 0.0
    for name in CLASSES:
        hits = [pair for pair in pairs if pair == (name, name)]
        precision = len(hits) / max(1, sum(said == name for said, _ in pairs))
        recall = len(hits) / max(1, sum(target == name for _, target in pairs))
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        total += f1 * sum(target == name for _, target in pairs) / len(pairs)
    return total


def test_a_table_counted_by_hand():
    # a1: 2 of 3 found, named 3 times: F1 2/3; a2: 1 of 2, named once: F1 2/3. A tie in the target does not count.
    answers = ["a1", "a1", None, "a1", "a2", "a1"]
    targets = ["a1", "a1", "a1", "a2", "a2", "same"]
    assert choice_scores(answers, targets, CLASSES) == pytest.approx({"accuracy": 3 / 5, "waf": 2 / 3, "scored": 5})


def test_an_answer_that_is_no_class_is_wrong_and_nothing_is_scored_without_targets():
    assert choice_scores(["same", "both"], ["a1", "a2"], CLASSES) == {"accuracy": 0.0, "waf": 0.0, "scored": 2.0}
    assert choice_scores(["a1"], ["same"], CLASSES) == {}
    with pytest.raises(ValueError, match="longer"):
        choice_scores(["a1"], ["a1", "a2"], CLASSES)


@given(st.lists(st.tuples(st.sampled_from(["a1", "a2", None]), st.sampled_from(CLASSES)), min_size=1, max_size=30))
def test_weighted_f1_is_that_of_precision_and_recall(pairs):
    scores = choice_scores(*zip(*pairs, strict=True), CLASSES)
    assert scores["waf"] == pytest.approx(slow_waf(pairs))
    assert scores["accuracy"] == sum(said == target for said, target in pairs) / len(pairs)
