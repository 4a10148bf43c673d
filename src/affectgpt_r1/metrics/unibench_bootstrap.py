"""Resampled scores of MER-UniBench's published metrics, each from sums over clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from affectgpt_r1.emotion.wheels import NUM_WHEELS, Lexicon
from affectgpt_r1.metrics.bootstrap import _corpus_scores, _resample
from affectgpt_r1.metrics.functional.wheel_f1 import (
    Floats,
    NoTarget,
    WheelSums,
    _mean_over_wheels,
    per_sample_scores,
    wheel_counts,
)
from affectgpt_r1.types import EmotionSet

RESAMPLES = 1000


class SummedMetric(NamedTuple):
    """A metric of a corpus that depends on sums over its clips alone."""

    columns: Floats  # (N, K), to be summed
    score: Callable[[Floats], Floats]  # sums (..., K) -> (...)


def wheel_f1_metric(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, no_target: NoTarget = "leave"
) -> SummedMetric:
    """Return the emotion-wheel F1 of fine-grained sets."""
    scores = per_sample_scores(wheel_counts(predictions, targets, lexicon))
    counted = scores.counted.astype(np.float64)
    parts = [scores.precision * counted, scores.recall * counted, counted]
    return SummedMetric(
        np.concatenate(parts, axis=1),
        lambda sums: _corpus_scores(WheelSums(*np.split(sums, len(parts), axis=-1)), no_target)["f1"],
    )


def hit_rate_metric(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, no_target: NoTarget = "leave"
) -> SummedMetric:
    """Return the hit rate of sets with one basic emotion per clip."""
    counts = wheel_counts(predictions, targets, lexicon)

    def score(sums: Floats) -> Floats:
        hits, counted = sums[..., :NUM_WHEELS], sums[..., NUM_WHEELS:]
        with np.errstate(invalid="ignore"):  # NaN on a wheel on which no clip counts
            return _mean_over_wheels(hits / counted, counted, no_target)

    counted = counts.relevant > 0
    return SummedMetric(np.concatenate([counts.hits * counted, counted], axis=1), score)


def weighted_f1_metric(sentiments: Sequence[int], values: Sequence[float]) -> SummedMetric:
    """Return the weighted F1 of sentiment: clips of value 0 are dropped, a predicted neutral is negative."""
    columns = np.zeros((len(values), 4))  # by target and prediction: negative or positive
    for row, (predicted, value) in enumerate(zip(sentiments, values, strict=True)):
        if value != 0:
            columns[row, 2 * int(value > 0) + int(predicted > 0)] = 1

    def score(sums: Floats) -> Floats:
        table = sums.reshape(*sums.shape[:-1], 2, 2)
        clips, correct = table.sum(-1), np.diagonal(table, axis1=-2, axis2=-1)
        f1 = 2 * correct / np.maximum(clips + table.sum(-2), 1)
        with np.errstate(invalid="ignore"):
            waf: Floats = (clips * f1).sum(-1) / clips.sum(-1)
        return waf

    return SummedMetric(columns, score)


def resampled_metrics(metrics: Sequence[SummedMetric], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Floats]:
    """Return each metric of all ``N`` clips, then of each resample, ``(1 + resamples,)``; all of the same resamples."""
    matrix = np.concatenate([metric.columns for metric in metrics], axis=1)
    draws = _resample(len(matrix), resamples, seed)
    sums = np.concatenate([matrix.sum(0, keepdims=True), *(weights @ matrix for weights in draws)])
    ends = np.cumsum([metric.columns.shape[1] for metric in metrics])[:-1]
    return [metric.score(part) for metric, part in zip(metrics, np.split(sums, ends, axis=1), strict=True)]
