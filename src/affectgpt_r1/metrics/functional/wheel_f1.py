"""The emotion-wheel score: set overlap of predicted and target emotion words after mapping onto wheel clusters.

The corpus score and the per-sample reward rest on the same counts (:func:`wheel_counts`). With G and Y the clusters of
the target and of the prediction on one wheel, a sample counts if G is not empty, and

    P = mean |G & Y| / |Y|  (0 where Y is empty),   R = mean |G & Y| / |G|,   F = 2 P R / (P + R).

F, P and R are then averaged over the five wheels (Lian et al., "AffectGPT", ICML 2025; MER2025 and MER2026 challenges).
Words that map nowhere are dropped.
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
    """Corpus precision, recall and F, per wheel; NaN on a wheel for which no sample counts."""

    precision: Tensor  # (..., 5) float64
    recall: Tensor  # (..., 5) float64
    f1: Tensor  # (..., 5) float64


def wheel_counts(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int = 1
) -> WheelCounts:
    """Cluster counts of ``N`` samples on the five wheels.

    Args:
        predictions: ``N`` predicted emotion sets; duplicates, case and order do not matter.
        targets: ``N`` target emotion sets.
        lexicon: Maps words onto clusters.
        level: Ring of the wheels, 1 (inner) or 2.

    Raises:
        ValueError: If the lengths differ, or the level is neither 1 nor 2.
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
    """Counts of ``N`` samples when words, not clusters, are compared: cases 1 and 2, ``(N, 1)``.

    Args:
        predictions: ``N`` predicted emotion sets.
        targets: ``N`` target emotion sets.
        stands_for: What a word is taken for, such as its base form; None drops it.

    Raises:
        ValueError: If the lengths differ.
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
    """Set precision, recall and F1 of each sample on each wheel; 0 where a set is empty."""
    hits, predicted, relevant = counts
    return WheelScores(
        precision=hits / predicted.clamp(min=1),
        recall=hits / relevant.clamp(min=1),
        f1=2 * hits / (predicted + relevant).clamp(min=1),
        counted=relevant > 0,
    )


def _update(counts: WheelCounts) -> WheelSums:
    """Sums over the samples of ``counts``."""
    scores = per_sample_scores(counts)
    counted = scores.counted.double()
    return WheelSums((scores.precision * counted).sum(0), (scores.recall * counted).sum(0), counted.sum(0))


def hits_by_size(counts: WheelCounts, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers from which the sums follow exactly, whatever the order in which samples were added up.

    Args:
        counts: Of ``N`` samples; those whose target maps nowhere add nothing.
        most: Largest possible number of clusters of a set.

    Returns:
        Hits by number of predicted clusters and by number of target clusters, ``(5, most + 1)`` each, and the number
        of counted samples ``(5,)``; float64.
    """
    hits, predicted, relevant = counts
    zeros = torch.zeros(hits.shape[1], most + 1, dtype=torch.float64)
    by_predicted, by_relevant = (zeros.scatter_add(1, sizes.T.long(), hits.T) for sizes in (predicted, relevant))
    return by_predicted, by_relevant, (relevant > 0).double().sum(0)


def sums_of_hits(by_predicted: Tensor, by_relevant: Tensor, counted: Tensor) -> WheelSums:
    """The sums that the results of :func:`hits_by_size`, added up over batches and processes, stand for."""
    sizes = torch.arange(by_predicted.shape[-1], dtype=by_predicted.dtype, device=by_predicted.device).clamp(min=1)
    return WheelSums((by_predicted / sizes).sum(-1), (by_relevant / sizes).sum(-1), counted)


def _compute(sums: WheelSums, zero_division: ZeroDivision = "zero") -> CorpusScore:
    """Corpus score of ``sums``.

    Args:
        sums: Of shape ``(..., 5)``.
        zero_division: F where precision and recall are both 0: 0 (the 2026 scorer) or NaN (the 2025 scorer).
    """
    precision = sums.precision / sums.counted
    recall = sums.recall / sums.counted
    f1 = 2 * precision * recall / (precision + recall)
    if zero_division == "zero":
        f1 = torch.where(precision + recall == 0, 0.0, f1)
    return CorpusScore(precision, recall, f1)


def _mean_over_wheels(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of ``values`` (..., 5) over the wheels on which any sample counts; NaN if there is none."""
    scored = counted > 0
    return torch.where(scored, values, 0.0).sum(-1) / scored.sum(-1)


def count_unmapped(predictions: Sequence[EmotionSet], lexicon: Lexicon) -> tuple[int, int]:
    """Number of predicted words that map onto no wheel at level 1, and of all predicted words, duplicates included."""
    table = cluster_table(lexicon, LEVELS[0])
    unmapped = (table.masks == 0).all(axis=1).take(word_rows(predictions, table))
    return int(unmapped.sum()), len(unmapped)


def batch_mean_set_f1(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int = 1
) -> list[float | None]:
    """The per-sample score of ``N`` samples: set F1, averaged over the wheels onto which the target maps.

    Returns:
        Numbers in [0, 1], None where the target maps onto no wheel.

    Raises:
        ValueError: If the lengths differ, or the level is neither 1 nor 2.
    """
    hits, predicted, relevant = _set_sizes(predictions, targets, lexicon, level)
    num_wheels = np.count_nonzero(relevant, axis=0)
    f1 = 2 * hits / np.maximum(predicted + relevant, 1)  # 0 on a wheel without target, where nothing can hit
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
    """Every published score of a corpus.

    Args:
        predictions: ``N`` predicted emotion sets.
        targets: ``N`` target emotion sets.
        lexicon: Maps words onto base forms, synonyms and clusters.
        zero_division: F where precision and recall are both 0: 0 (the 2026 scorer) or NaN (the 2025 scorer).

    Returns:
        ``precision``, ``recall`` and ``f1`` under ``case1`` (base forms), ``case2`` (synonyms),
        ``case3_wheel{1..5}_level{1,2}`` (clusters), ``mean_level1`` and ``mean_level2`` (means over the wheels);
        and ``mer2025_challenge`` with the mean ``f1`` of both levels.

    Raises:
        ValueError: If the lengths differ.
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
