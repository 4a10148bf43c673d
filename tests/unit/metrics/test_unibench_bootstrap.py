"""Metrics from sums equal those of the clips; the honest choice of a checkpoint by hand."""

from __future__ import annotations

import numpy as np
import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.evaluation.unibench_choice import compare_choices
from affectgpt_r1.metrics.functional.hit_rate import hit_rate
from affectgpt_r1.metrics.functional.sentiment import sentiment_scores
from affectgpt_r1.metrics.functional.wheel_f1 import score_table
from affectgpt_r1.metrics.unibench_bootstrap import (
    SummedMetric,
    hit_rate_metric,
    resampled_metrics,
    weighted_f1_metric,
    wheel_f1_metric,
)

LEXICON = load_lexicon("bundled")
WORDS = ("happy", "joyful", "sad", "angry", "surprised", "worried", "neutral", "qwertz")
CLASSES = ("happy", "sad", "angry", "worried", "surprised", "neutral")


def drawn(number=200, seed=0):
    rng = np.random.default_rng(seed)
    sets = [[tuple(rng.choice(WORDS, size=rng.integers(0, 4))) for _ in range(number)] for _ in range(2)]
    classes = [str(label) for label in rng.choice(CLASSES, size=number)]
    return sets[0], sets[1], classes, rng.integers(-1, 2, number).tolist(), (rng.integers(-3, 4, number) / 2).tolist()


@pytest.mark.parametrize("clips", [slice(None), [3, 3, 7, 100, 150, 150, 150, 8, 9, 10, 11, 12]])
def test_sums_over_clips_give_each_metric(clips):
    predictions, targets, classes, sentiments, values = drawn()
    metrics = {
        "f1": wheel_f1_metric(predictions, targets, LEXICON),
        "hit": hit_rate_metric(predictions, [(label,) for label in classes], LEXICON),
        "waf": weighted_f1_metric(sentiments, values),
    }
    rows = np.arange(len(predictions))[clips]
    predicted, wanted, labels, judged, given = ([part[row] for row in rows] for part in drawn())
    expected = {
        "f1": score_table(predicted, wanted, LEXICON)["mean_level1"]["f1"],
        "hit": hit_rate(predicted, labels, CLASSES, LEXICON).hit_rate,
        "waf": sentiment_scores(judged, given).waf,
    }
    for name, metric in metrics.items():
        assert float(metric.score(metric.columns[rows].sum(0))) == pytest.approx(expected[name], abs=1e-12)


def test_resamples_of_one_set_take_the_same_clips():
    predictions, targets, *_ = drawn()
    once, again = resampled_metrics([wheel_f1_metric(predictions, targets, LEXICON)] * 2, resamples=50)
    assert once.shape == (51,)
    assert np.array_equal(once, again)
    assert len(np.unique(once)) > 40


def hits(*per_clip: float) -> SummedMetric:
    columns = np.array([[hit, 1.0] for hit in per_clip])
    return SummedMetric(columns, lambda sums: sums[..., 0] / sums[..., 1])


SETS = {
    "first": {"a": hits(1, 0, 0, 0), "b": hits(1, 1, 1, 0)},
    "second": {"a": hits(1, 1, 1, 1), "b": hits(0, 1, 1, 0)},
    "third": {"a": hits(1, 1, 0, 0), "b": hits(1, 0, 0, 0)},
}


def test_without_a_named_one_each_set_takes_the_best_of_the_others():
    choice = compare_choices(SETS, None)
    assert choice["by"] == "other sets"
    picked = {name: (row["best"]["checkpoint"], row["honest"]["checkpoint"]) for name, row in choice["sets"].items()}
    # Means elsewhere of a and b: 3/4 and 3/8 for the first, 3/8 and 1/2 for the second, 5/8 and 5/8 for the third.
    assert picked == {"first": ("b", "a"), "second": ("a", "b"), "third": ("a", "a")}
    assert [row["optimism"] for row in choice["sets"].values()] == [0.5, 0.5, 0.0]
    assert choice["mean"]["best"]["published"] == pytest.approx((0.75 + 1 + 0.5) / 3)
    assert choice["mean"]["honest"]["published"] == pytest.approx((0.25 + 0.5 + 0.5) / 3)
    assert choice["mean"]["optimism"] == pytest.approx(1 / 3)
    low, high = choice["mean"]["optimism_interval"]
    assert 0 < low < 1 / 3 < high
    assert choice["sets"]["second"]["intervals"]["a"] == [1.0, 1.0]
    assert choice["sets"]["third"]["optimism_interval"] == [0.0, 0.0]


def test_a_named_one_serves_every_set_and_one_set_has_none():
    named = compare_choices(SETS, "b")
    assert (named["by"], [row["honest"]["checkpoint"] for row in named["sets"].values()]) == ("named", ["b"] * 3)
    alone = compare_choices({"first": SETS["first"]}, None)
    assert (alone["by"], alone["sets"]["first"]["honest"], alone["mean"]["optimism"]) == ("none", None, None)
