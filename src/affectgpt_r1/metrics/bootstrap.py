"""Percentile bootstrap intervals of the corpus score, resampling clips (Efron & Tibshirani, 1993)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from affectgpt_r1.metrics.functional.wheel_f1 import (
    WheelCounts,
    WheelSums,
    _compute,
    _mean_over_wheels,
    per_sample_scores,
)

Statistic = Literal["f1", "precision", "recall"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
_WEIGHTS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """A statistic of the corpus and the interval that holds it."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    counts: WheelCounts,
    statistic: Statistic = "f1",
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a corpus score, the mean over the wheels.

    Each resample draws ``N`` clips with replacement and takes the corpus score of those clips, not the mean of
    per-clip scores. ``confidence`` is the fraction of resamples in the interval.

    Raises:
        ValueError: No clip counts, or an argument is out of range.
    """
    return _interval([counts], [], statistic, resamples, confidence, seed)


def paired_difference_interval(
    first: WheelCounts,
    second: WheelCounts,
    statistic: Statistic = "f1",
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of ``first`` minus ``second``, two systems on the same clips in the same order.

    Each resample takes the same clips of both, so that the difficulty of a clip cancels out.
    """
    return mean_difference_interval([first], [second], statistic, resamples=resamples, confidence=confidence, seed=seed)


def mean_difference_interval(
    first: Sequence[WheelCounts],
    second: Sequence[WheelCounts],
    statistic: Statistic = "f1",
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of a difference of means: two methods, each trained a few times, on the same clips.

    Each resample takes the same clips of every training; its value is the mean corpus score of the trainings of
    ``first`` minus that of ``second``. The trainings themselves are not resampled; their numbers may differ.

    Raises:
        ValueError: A method has no training, the clips differ, none counts, or an argument is out of range.
    """
    if not first or not second:
        raise ValueError("each method needs at least one training")
    if any(not torch.equal(first[0].relevant, counts.relevant) for counts in [*first, *second]):
        raise ValueError("the two systems were not scored on the same clips in the same order: their targets differ")
    return _interval(first, second, statistic, resamples, confidence, seed)


def _interval(
    first: Sequence[WheelCounts],
    second: Sequence[WheelCounts],
    statistic: Statistic,
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    if statistic not in STATISTICS:
        raise ValueError(f"unknown statistic {statistic!r}: take one of {', '.join(STATISTICS)}")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples={resamples} must be positive, confidence={confidence} between 0 and 1")
    if not bool((first[0].relevant > 0).any()):
        raise ValueError("no clip counts: none of the targets maps onto a wheel")
    num_clips = len(first[0].relevant)
    estimate = _difference(first, second, torch.ones(1, num_clips, dtype=torch.float64), statistic)
    draws = [_difference(first, second, weights, statistic) for weights in _resample(num_clips, resamples, seed)]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(torch.cat(draws).numpy(), [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))


def _resample(num_clips: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Yield how often each resample draws each clip: chunks of ``(R, N)`` float64."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _WEIGHTS_AT_ONCE // num_clips)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        rows = generator.integers(num_clips, size=(size, num_clips)) + num_clips * np.arange(size)[:, None]
        weights = np.bincount(rows.ravel(), minlength=size * num_clips).reshape(size, num_clips)
        yield torch.from_numpy(weights.astype(np.float64))


def _difference(
    first: Sequence[WheelCounts], second: Sequence[WheelCounts], weights: Tensor, statistic: Statistic
) -> Tensor:
    """Return the mean score of ``first``, minus that of ``second`` if given, by row of ``weights``: ``(R,)``."""
    means = [
        torch.stack([_weighted_score(counts, weights, statistic) for counts in trainings]).mean(0)
        for trainings in (first, second)
        if trainings
    ]
    return means[0] - means[1] if second else means[0]


def _weighted_score(counts: WheelCounts, weights: Tensor, statistic: Statistic) -> Tensor:
    # A clip that was drawn w times counts w times in each sum, so a matrix product scores all resamples at once.
    scores = per_sample_scores(counts)
    counted = scores.counted.double()
    sums = WheelSums(weights @ (scores.precision * counted), weights @ (scores.recall * counted), weights @ counted)
    return _mean_over_wheels(_compute(sums)._asdict()[statistic], sums.counted)
