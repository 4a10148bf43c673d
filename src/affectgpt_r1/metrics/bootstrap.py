"""Percentile bootstrap intervals of the corpus score, resampling clips (Efron & Tibshirani, 1993)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from affectgpt_r1.metrics.functional.wheel_f1 import (
    Floats,
    NoTarget,
    WheelCounts,
    WheelSums,
    _compute,
    _mean_over_wheels,
    per_sample_scores,
)

Statistic = Literal["f1", "precision", "recall"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
_WEIGHTS_AT_ONCE = 1_000_000  # 8 MB: four times as many take a sixth longer for 20,000 clips, in new memory each time


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


def bootstrap_intervals(
    figures: Mapping[str, WheelCounts],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    no_target: NoTarget = "leave",
) -> dict[str, dict[Statistic, Interval]]:
    """Return the intervals of many figures of the same clips, all from the same resamples.

    Each equals what :func:`bootstrap_interval` gives it alone; figures for which no clip counts are left out, and so
    are those that a wheel without a target makes NaN.
    """
    counts_where = np.all if no_target == "nan" else np.any
    counted = {name: counts for name, counts in figures.items() if counts_where((counts.relevant > 0).any(0))}
    if not counted:
        return {}
    scores = _resampled_scores(list(counted.values()), resamples, seed, no_target)
    return {
        name: {statistic: _percentiles(of_figure[statistic], confidence) for statistic in STATISTICS}
        for name, of_figure in zip(counted, scores, strict=True)
    }


def paired_intervals(
    systems: Mapping[str, WheelCounts], *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[Interval, Interval]]:
    """Return each system's F1, and the first system's minus it, all from the same resamples of the same clips."""
    f1s = [scores["f1"] for scores in _resampled_scores(list(systems.values()), resamples, seed)]
    return {
        name: (_percentiles(f1, confidence), _percentiles(f1s[0] - f1, confidence))
        for name, f1 in zip(systems, f1s, strict=True)
    }


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
    _check_systems(first, second)
    return _interval(first, second, statistic, resamples, confidence, seed)


def seeds_and_clips_interval(
    first: Sequence[WheelCounts],
    second: Sequence[WheelCounts],
    statistic: Statistic = "f1",
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of a mean difference by a hierarchical bootstrap, over the trainings and over the clips.

    Training ``i`` of ``first`` and of ``second`` share a seed. Each resample draws as many seeds as there are, with
    replacement, and the same clips of all of them. Of few seeds it is too narrow: their drawn variance is that of
    ``n`` seeds times ``(n - 1) / n``.

    Raises:
        ValueError: The methods have fewer than two trainings or not equally many, or as for
            :func:`mean_difference_interval`.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"seeds are paired, and at least two: there are {len(first)} trainings and {len(second)}")
    _check_systems(first, second)
    _check_resampling(first[0], statistic, resamples, confidence)
    scores = [of_system[statistic] for of_system in _resampled_scores([*first, *second], resamples, seed)]
    differences = np.stack(scores[: len(first)]) - np.stack(scores[len(first) :])  # (S, 1 + R)
    drawn = np.random.default_rng([seed, 1]).integers(len(first), size=differences.shape)
    drawn[:, 0] = np.arange(len(first))  # the estimate is of every seed once
    return _percentiles(np.take_along_axis(differences, drawn, axis=0).mean(0), confidence)


def _interval(
    first: Sequence[WheelCounts],
    second: Sequence[WheelCounts],
    statistic: Statistic,
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    _check_resampling(first[0], statistic, resamples, confidence)
    scores = [of_system[statistic] for of_system in _resampled_scores([*first, *second], resamples, seed)]
    values = np.mean(scores[: len(first)], axis=0)
    if second:
        values = values - np.mean(scores[len(first) :], axis=0)
    return _percentiles(values, confidence)


def _check_systems(first: Sequence[WheelCounts], second: Sequence[WheelCounts]) -> None:
    if any(not np.array_equal(first[0].relevant, counts.relevant) for counts in [*first, *second]):
        raise ValueError("the two systems were not scored on the same clips in the same order: their targets differ")


def _check_resampling(counts: WheelCounts, statistic: Statistic, resamples: int, confidence: float) -> None:
    if statistic not in STATISTICS:
        raise ValueError(f"unknown statistic {statistic!r}: take one of {', '.join(STATISTICS)}")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples={resamples} must be positive, confidence={confidence} between 0 and 1")
    if not (counts.relevant > 0).any():
        raise ValueError("no clip counts: none of the targets maps onto a wheel")


def mean_interval(values: Floats, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the interval of the mean of ``N`` values."""
    means = [weights @ values / len(values) for weights in _resample(len(values), resamples, seed)]
    return _percentiles(np.concatenate([[values.mean()], *means]), confidence)


def _percentiles(values: Floats, confidence: float) -> Interval:
    """Return the interval of values of which the first is the estimate and the others are of resamples."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))


def _resampled_scores(
    systems: Sequence[WheelCounts], resamples: int, seed: int, no_target: NoTarget = "leave"
) -> list[dict[Statistic, Floats]]:
    """Return the corpus scores of each system: of all clips once, then of each resample, ``(1 + resamples,)``."""
    # A clip that was drawn w times counts w times in each sum, so one matrix product of the weights (R, N) and every
    # system's columns (N, K) sums all of them for all resamples.
    columns = _Columns()
    places = []
    for counts in systems:
        scores = per_sample_scores(counts)
        counted = scores.counted.astype(np.float64)
        places.append([columns.add(part) for part in (scores.precision * counted, scores.recall * counted, counted)])
    matrix = np.stack(columns.distinct, axis=1)
    draws = _resample(len(matrix), resamples, seed)
    sums = np.concatenate([matrix.sum(0, keepdims=True), *(weights @ matrix for weights in draws)])
    return [_corpus_scores(WheelSums(*(sums[:, part] for part in of_system)), no_target) for of_system in places]


def _corpus_scores(sums: WheelSums, no_target: NoTarget) -> dict[Statistic, Floats]:
    corpus = _compute(sums)._asdict()
    return {statistic: _mean_over_wheels(corpus[statistic], sums.counted, no_target) for statistic in STATISTICS}


class _Columns:
    """Columns to be resampled, each once: systems share targets, and the mean over the wheels has each wheel's."""

    def __init__(self) -> None:
        self.distinct: list[Floats] = []
        self._places: dict[bytes, int] = {}

    def add(self, part: Floats) -> list[int]:
        """Return the places of the columns of ``part`` (N, W)."""
        places = []
        for column in part.T:
            place = self._places.setdefault(column.tobytes(), len(self.distinct))
            if place == len(self.distinct):
                self.distinct.append(column)
            places.append(place)
        return places


def _resample(num_clips: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each resample draws each clip: chunks of ``(R, N)``."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _WEIGHTS_AT_ONCE // num_clips)
    once = np.ones(num_clips)  # counts are floats then, without a conversion
    for start in range(0, resamples, chunk):
        # 32 bits: the same draws as with 64, a sixth faster.
        drawn = generator.integers(num_clips, size=(min(chunk, resamples - start), num_clips), dtype=np.uint32)
        weights = np.empty(drawn.shape)
        for row, clips in zip(weights, drawn, strict=True):
            row[:] = np.bincount(clips, once, num_clips)
        yield weights
