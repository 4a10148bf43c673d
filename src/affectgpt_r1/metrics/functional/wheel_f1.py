"""The emotion-wheel score: set overlap of predicted and target emotion words after mapping onto wheel clusters.

From Lian et al., "AffectGPT", ICML 2025 (MER-UniBench), and the MER2025 and MER2026 challenges. Corpus score and
per-sample reward use the same counts (:func:`wheel_counts`), in which words that map nowhere are dropped. A sample
counts on a wheel if its target maps onto it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from affectgpt_r1.emotion.wheels import LEVELS, NUM_WHEELS, Lexicon
from affectgpt_r1.metrics.functional.cluster_table import (
    Sizes,
    cluster_sets,
    cluster_sets_of_runs,
    cluster_table,
    set_sizes,
    word_rows,
)
from affectgpt_r1.types import EmotionSet

ZeroDivision = Literal["zero", "nan"]


class WheelCounts(NamedTuple):
    """Sizes of cluster sets, per sample and wheel."""

    hits: Tensor  # (N, 5) float64: clusters in both
    predicted: Tensor  # (N, 5) float64: clusters of the prediction
    relevant: Tensor  # (N, 5) float64: clusters of the target


class WheelScores(NamedTuple):
    """Set scores, per sample and wheel."""

    precision: Tensor  # (N, 5) float64
    recall: Tensor  # (N, 5) float64
    f1: Tensor  # (N, 5) float64
    counted: Tensor  # (N, 5) bool: the target maps onto the wheel


class WheelSums(NamedTuple):
    """Sums over samples from which the corpus score follows; they add up over batches and processes."""

    precision: Tensor  # (..., 5) float64
    recall: Tensor  # (..., 5) float64
    counted: Tensor  # (..., 5) float64: number of counted samples


class CorpusScore(NamedTuple):
    """Corpus precision, recall and F1, per wheel; NaN on a wheel for which no sample counts."""

    precision: Tensor  # (..., 5) float64
    recall: Tensor  # (..., 5) float64
    f1: Tensor  # (..., 5) float64


def wheel_counts(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int = 1
) -> WheelCounts:
    """Return cluster counts of ``N`` samples on the five wheels, at ring 1 (inner) or 2.

    Duplicates, case and order of words do not matter.

    Raises:
        ValueError: The lengths differ, or the level is neither 1 nor 2.
    """
    sizes = _set_sizes(predictions, targets, lexicon, level)
    return WheelCounts(*(torch.from_numpy(of_set.T.astype(np.float64)) for of_set in sizes))


def _set_sizes(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int
) -> tuple[Sizes, Sizes, Sizes]:
    _check_lengths(predictions, targets)
    table = cluster_table(lexicon, level)
    predicted, relevant = cluster_sets(predictions, table), cluster_sets_of_runs(targets, table)
    return set_sizes(predicted & relevant, table), set_sizes(predicted, table), set_sizes(relevant, table)


def word_counts(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], stands_for: Callable[[str], str | None]
) -> WheelCounts:
    """Return counts ``(N, 1)`` of words instead of clusters: cases 1 and 2.

    ``stands_for`` gives what a word is taken for, such as its base form; None drops it.
    """
    _check_lengths(predictions, targets)
    stands_for = cache(stands_for)
    rows = []
    for prediction, target in zip(predictions, targets, strict=True):
        y, g = ({value for word in words if (value := stands_for(word)) is not None} for words in (prediction, target))
        rows.append((len(y & g), len(y), len(g)))
    return WheelCounts(*torch.tensor(rows, dtype=torch.float64).reshape(-1, 1, 3).unbind(-1))


def _check_lengths(predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet]) -> None:
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")


def per_sample_scores(counts: WheelCounts) -> WheelScores:
    """Return set precision, recall and F1 of each sample on each wheel; 0 where a set is empty."""
    hits, predicted, relevant = counts
    # With the clusters Y of the prediction and G of the target: P = |G & Y| / |Y|, R = |G & Y| / |G|,
    # F1 = 2 P R / (P + R) = 2 |G & Y| / (|Y| + |G|).
    return WheelScores(
        precision=hits / predicted.clamp(min=1),
        recall=hits / relevant.clamp(min=1),
        f1=2 * hits / (predicted + relevant).clamp(min=1),
        counted=relevant > 0,
    )


def _update(counts: WheelCounts) -> WheelSums:
    """Sum over the samples of ``counts``."""
    scores = per_sample_scores(counts)
    counted = scores.counted.double()
    return WheelSums((scores.precision * counted).sum(0), (scores.recall * counted).sum(0), counted.sum(0))


def hits_by_size(counts: WheelCounts, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return hits by number of predicted and by number of target clusters, and the number of counted samples.

    Of shape ``(5, most + 1)``, ``(5, most + 1)`` and ``(5,)``, float64; no set has more than ``most`` clusters.
    """
    hits, predicted, relevant = counts
    # sum_n hits_n / |Y_n| = sum_s (sum of hits_n with |Y_n| = s) / s. The inner sums are integers, so the order of
    # samples, batches and processes cannot change a bit of the result.
    zeros = torch.zeros(hits.shape[1], most + 1, dtype=torch.float64)
    by_predicted, by_relevant = (zeros.scatter_add(1, sizes.T.long(), hits.T) for sizes in (predicted, relevant))
    return by_predicted, by_relevant, (relevant > 0).double().sum(0)


def sums_of_hits(by_predicted: Tensor, by_relevant: Tensor, counted: Tensor) -> WheelSums:
    """Return the sums over samples from results of :func:`hits_by_size` that were added up."""
    sizes = torch.arange(by_predicted.shape[-1], dtype=by_predicted.dtype, device=by_predicted.device).clamp(min=1)
    return WheelSums((by_predicted / sizes).sum(-1), (by_relevant / sizes).sum(-1), counted)


def _compute(sums: WheelSums, zero_division: ZeroDivision = "zero") -> CorpusScore:
    """Return the corpus score of sums ``(..., 5)``."""
    # P and R are means over the counted samples; F1 = 2 P R / (P + R) is taken of these means, not averaged itself.
    precision = sums.precision / sums.counted
    recall = sums.recall / sums.counted
    f1 = 2 * precision * recall / (precision + recall)
    if zero_division == "zero":  # as the 2026 scorer has it where P = R = 0; the 2025 scorer has NaN
        f1 = torch.where(precision + recall == 0, 0.0, f1)
    return CorpusScore(precision, recall, f1)


def _mean_over_wheels(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of ``values`` (..., 5) over the wheels on which any sample counts; NaN if there is none."""
    scored = counted > 0
    return torch.where(scored, values, 0.0).sum(-1) / scored.sum(-1)


def count_unmapped(predictions: Sequence[EmotionSet], lexicon: Lexicon) -> tuple[int, int]:
    """Count the predicted words that map onto no wheel at level 1, and all predicted words, with duplicates."""
    table = cluster_table(lexicon, LEVELS[0])
    unmapped = (table.masks == 0).all(axis=1).take(word_rows(predictions, table))
    return int(unmapped.sum()), len(unmapped)


def batch_mean_set_f1(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int = 1
) -> list[float | None]:
    """Return the score of each of ``N`` samples: set F1, averaged over the wheels onto which the target maps.

    In [0, 1]; None where the target maps onto no wheel.
    """
    hits, predicted, relevant = _set_sizes(predictions, targets, lexicon, level)
    num_wheels = np.count_nonzero(relevant, axis=0)
    # F1 = 2 |G & Y| / (|Y| + |G|) on each wheel: 0 on one without target, where nothing can hit.
    f1 = 2 * hits / np.maximum(predicted + relevant, 1)
    means: list[float | None] = (f1.sum(axis=0) / np.maximum(num_wheels, 1)).tolist()
    for sample in np.flatnonzero(num_wheels == 0).tolist():
        means[sample] = None
    return means


def score_table(
    predictions: Sequence[EmotionSet],
    targets: Sequence[EmotionSet],
    lexicon: Lexicon,
    zero_division: ZeroDivision = "zero",
) -> dict[str, dict[str, float]]:
    """Return every published score of a corpus.

    ``precision``, ``recall`` and ``f1`` are under ``case1`` (base forms), ``case2`` (synonyms),
    ``case3_wheel{1..5}_level{1,2}`` (clusters), ``mean_level1`` and ``mean_level2`` (means over the wheels);
    ``mer2025_challenge`` has the mean ``f1`` of both levels.
    """
    table: dict[str, dict[str, float]] = {}
    for name, stands_for in (("case1", lexicon.base_form), ("case2", lexicon.synonym)):
        sums = _update(word_counts(predictions, targets, stands_for))
        table[name] = _as_floats(_compute(sums, zero_division), 0)
    for level in LEVELS:
        sums = _update(wheel_counts(predictions, targets, lexicon, level))
        score = _compute(sums, zero_division)
        for wheel in range(NUM_WHEELS):
            table[f"case3_wheel{wheel + 1}_level{level}"] = _as_floats(score, wheel)
        means = CorpusScore(*(_mean_over_wheels(values, sums.counted).unsqueeze(-1) for values in score))
        table[f"mean_level{level}"] = _as_floats(means, 0)
    table["mer2025_challenge"] = {"f1": (table["mean_level1"]["f1"] + table["mean_level2"]["f1"]) / 2}
    return table


def _as_floats(score: CorpusScore, column: int) -> dict[str, float]:
    return {name: float(values[column]) for name, values in score._asdict().items()}
