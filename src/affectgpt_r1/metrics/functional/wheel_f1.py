"""The emotion-wheel score: set overlap of predicted and target emotion words after mapping onto wheel clusters.

From Lian et al., "AffectGPT", ICML 2025 (MER-UniBench), and the MER2025 and MER2026 challenges. Corpus score and
per-sample reward use the same counts (:func:`wheel_counts`), in which words that map nowhere are dropped. A sample
counts on a wheel if its target maps onto it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from affectgpt_r1.emotion.wheels import LEVELS, NUM_WHEELS, Lexicon
from affectgpt_r1.metrics.functional.cluster_table import (
    Bits,
    Sizes,
    WordSets,
    cluster_sets,
    cluster_sets_of_runs,
    cluster_table,
    set_sizes,
    unite,
    word_rows,
    word_sets,
    word_table,
)
from affectgpt_r1.types import EmotionSet

ZeroDivision = Literal["zero", "nan"]
NoTarget = Literal["leave", "zero", "nan"]
"""What a wheel on which no target counts adds to the mean over the wheels: nothing, which is ours; 0, as in the 2026
scorer; or NaN, as in the 2025 one."""
Floats = npt.NDArray[np.float64]


class WheelCounts(NamedTuple):
    """Sizes of cluster sets, per sample and wheel."""

    hits: Floats  # (N, 5): clusters in both
    predicted: Floats  # (N, 5): clusters of the prediction
    relevant: Floats  # (N, 5): clusters of the target


class WheelScores(NamedTuple):
    """Set scores, per sample and wheel."""

    precision: Floats  # (N, 5)
    recall: Floats  # (N, 5)
    f1: Floats  # (N, 5)
    counted: npt.NDArray[np.bool_]  # (N, 5): the target maps onto the wheel


class WheelSums(NamedTuple):
    """Sums over samples from which the corpus score follows; they add up over batches and processes."""

    precision: Floats  # (..., 5)
    recall: Floats  # (..., 5)
    counted: Floats  # (..., 5): number of counted samples


class CorpusScore(NamedTuple):
    """Corpus precision, recall and F1, per wheel; NaN on a wheel for which no sample counts."""

    precision: Floats  # (..., 5)
    recall: Floats  # (..., 5)
    f1: Floats  # (..., 5)


def wheel_counts(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int = 1
) -> WheelCounts:
    """Return cluster counts of ``N`` samples on the five wheels, at ring 1 (inner) or 2.

    Duplicates, case and order of words do not matter.

    Raises:
        ValueError: The lengths differ, or the level is neither 1 nor 2.
    """
    sizes = _set_sizes(predictions, targets, lexicon, level)
    return WheelCounts(*(of_set.T.astype(np.float64) for of_set in sizes))


def _set_sizes(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int
) -> tuple[Sizes, Sizes, Sizes]:
    _check_lengths(predictions, targets)
    table = cluster_table(lexicon, level)
    predicted, relevant = cluster_sets(predictions, table), cluster_sets_of_runs(targets, table)
    return set_sizes(predicted & relevant, table), set_sizes(predicted, table), set_sizes(relevant, table)


class CodedSets(NamedTuple):
    """``N`` emotion sets whose words were looked up once, for every published figure."""

    words: WordSets
    clusters: tuple[Bits, ...]  # by level

    def repeated(self, times: int) -> CodedSets:
        """Return the sets ``times`` times."""
        words = WordSets(*(np.tile(part, times) for part in self.words))
        return CodedSets(words, tuple(np.tile(bits, times) for bits in self.clusters))


def code_sets(sets: Sequence[EmotionSet], lexicon: Lexicon) -> CodedSets:
    """Look every word up once."""
    table = word_table(lexicon)
    words = word_sets(sets, table)
    by_level = zip(LEVELS, table.rows, strict=True)
    unions = (unite(rows.take(words.entries), words.sizes, cluster_table(lexicon, level)) for level, rows in by_level)
    return CodedSets(words, tuple(unions))


def corpus_counts(predictions: CodedSets, targets: CodedSets, lexicon: Lexicon) -> dict[str, WheelCounts]:
    """Return the counts of every published figure of ``N`` samples.

    ``case1`` and ``case2`` are ``(N, 1)`` counts of words instead of clusters: of base forms, and of the words that
    represent synonyms. ``level1`` and ``level2`` are those of :func:`wheel_counts`.
    """
    _check_lengths(predictions.words.sizes, targets.words.sizes)
    words = word_table(lexicon)
    counts = {
        "case1": _word_counts(predictions.words, targets.words, words.base),
        "case2": _word_counts(predictions.words, targets.words, words.synonym),
    }
    for level, predicted, relevant in zip(LEVELS, predictions.clusters, targets.clusters, strict=True):
        table = cluster_table(lexicon, level)
        sizes = (set_sizes(sets, table) for sets in (predicted & relevant, predicted, relevant))
        counts[f"level{level}"] = WheelCounts(*(of_set.T.astype(np.float64) for of_set in sizes))
    return counts


def _word_counts(answered: WordSets, expected: WordSets, number_of: npt.NDArray[np.int64]) -> WheelCounts:
    """Count the distinct numbers of each sample's words, ``(N, 1)``; -1 drops a word."""
    # Number k of sample n is the key n * stride + k: distinct keys are what a sample has, and what two samples share.
    stride = int(number_of.max(initial=0)) + 1
    predicted, relevant = (_keys(sets, number_of, stride) for sets in (answered, expected))
    both = np.intersect1d(predicted, relevant, assume_unique=True)
    sizes = (np.bincount(keys // stride, minlength=len(answered.sizes)) for keys in (both, predicted, relevant))
    return WheelCounts(*(of_set[:, None].astype(np.float64) for of_set in sizes))


def _keys(sets: WordSets, number_of: npt.NDArray[np.int64], stride: int) -> npt.NDArray[np.int64]:
    numbers = number_of.take(sets.entries)
    samples = np.repeat(np.arange(len(sets.sizes)), sets.sizes)
    keys = np.sort((samples * stride + numbers)[numbers >= 0])
    return keys[np.diff(keys, prepend=-1) > 0]


def _check_lengths(predictions: Sized, targets: Sized) -> None:
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")


def per_sample_scores(counts: WheelCounts) -> WheelScores:
    """Return set precision, recall and F1 of each sample on each wheel; 0 where a set is empty."""
    hits, predicted, relevant = counts
    # With the clusters Y of the prediction and G of the target: P = |G & Y| / |Y|, R = |G & Y| / |G|,
    # F1 = 2 P R / (P + R) = 2 |G & Y| / (|Y| + |G|).
    return WheelScores(
        precision=hits / np.maximum(predicted, 1),
        recall=hits / np.maximum(relevant, 1),
        f1=2 * hits / np.maximum(predicted + relevant, 1),
        counted=relevant > 0,
    )


def _update(counts: WheelCounts) -> WheelSums:
    """Sum over the samples of ``counts``."""
    scores = per_sample_scores(counts)
    counted = scores.counted.astype(np.float64)
    return WheelSums((scores.precision * counted).sum(0), (scores.recall * counted).sum(0), counted.sum(0))


def hits_by_size(counts: WheelCounts, most: int) -> tuple[Floats, Floats, Floats]:
    """Return hits by number of predicted and by number of target clusters, and the number of counted samples.

    Of shape ``(5, most + 1)``, ``(5, most + 1)`` and ``(5,)``; no set has more than ``most`` clusters.
    """
    hits, predicted, relevant = counts
    # sum_n hits_n / |Y_n| = sum_s (sum of hits_n with |Y_n| = s) / s. The inner sums are integers, so the order of
    # samples, batches and processes cannot change a bit of the result.
    by_predicted, by_relevant = np.zeros((2, hits.shape[1], most + 1))
    for by_size, sizes in ((by_predicted, predicted), (by_relevant, relevant)):
        for wheel in range(hits.shape[1]):
            by_size[wheel] = np.bincount(sizes[:, wheel].astype(int), hits[:, wheel], minlength=most + 1)
    return by_predicted, by_relevant, np.count_nonzero(relevant, axis=0).astype(np.float64)


def sums_of_hits(by_predicted: Floats, by_relevant: Floats, counted: Floats) -> WheelSums:
    """Return the sums over samples from results of :func:`hits_by_size` that were added up."""
    sizes = np.maximum(np.arange(by_predicted.shape[-1]), 1)
    return WheelSums((by_predicted / sizes).sum(-1), (by_relevant / sizes).sum(-1), counted)


def _compute(sums: WheelSums, zero_division: ZeroDivision = "zero") -> CorpusScore:
    """Return the corpus score of sums ``(..., 5)``."""
    # P and R are means over the counted samples; F1 = 2 P R / (P + R) is taken of these means, not averaged itself.
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN where no sample counts or nothing is hit
        precision = sums.precision / sums.counted
        recall = sums.recall / sums.counted
        f1 = 2 * precision * recall / (precision + recall)
    if zero_division == "zero":  # as the 2026 scorer has it where P = R = 0; the 2025 scorer has NaN
        f1 = np.where(precision + recall == 0, 0.0, f1)
    return CorpusScore(precision, recall, f1)


def _mean_over_wheels(values: Floats, counted: Floats, no_target: NoTarget = "leave") -> Floats:
    """Return the mean of ``values`` (..., 5) over the wheels on which any sample counts; NaN if there is none."""
    if no_target != "leave":
        filled: Floats = _filled(values, counted, no_target).mean(-1)
        return filled
    scored = counted > 0
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(scored, values, 0.0).sum(-1) / scored.sum(-1)
    return means


def _filled(values: Floats, counted: Floats, no_target: NoTarget) -> Floats:
    return np.where(counted > 0, values, 0.0 if no_target == "zero" else np.nan)


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
    no_target: NoTarget = "leave",
) -> dict[str, dict[str, float]]:
    """Return every published score of a corpus.

    ``precision``, ``recall`` and ``f1`` are under ``case1`` (base forms), ``case2`` (synonyms),
    ``case3_wheel{1..5}_level{1,2}`` (clusters), ``mean_level1`` and ``mean_level2`` (means over the wheels);
    ``mer2025_challenge`` has the mean ``f1`` of both levels.
    """
    counts = corpus_counts(code_sets(predictions, lexicon), code_sets(targets, lexicon), lexicon)
    return corpus_scores(counts, zero_division, no_target)


def corpus_scores(
    counts: Mapping[str, WheelCounts], zero_division: ZeroDivision = "zero", no_target: NoTarget = "leave"
) -> dict[str, dict[str, float]]:
    """Return what :func:`score_table` does, from :func:`corpus_counts`."""
    table = {name: _as_floats(_compute(_update(counts[name]), zero_division), 0) for name in ("case1", "case2")}
    for level in LEVELS:
        sums = _update(counts[f"level{level}"])
        score = _compute(sums, zero_division)
        if no_target == "zero":
            score = CorpusScore(*(_filled(values, sums.counted, no_target) for values in score))
        for wheel in range(NUM_WHEELS):
            table[f"case3_wheel{wheel + 1}_level{level}"] = _as_floats(score, wheel)
        means = CorpusScore(*(np.atleast_1d(_mean_over_wheels(values, sums.counted, no_target)) for values in score))
        table[f"mean_level{level}"] = _as_floats(means, 0)
    table["mer2025_challenge"] = {"f1": (table["mean_level1"]["f1"] + table["mean_level2"]["f1"]) / 2}
    return table


def _as_floats(score: CorpusScore, column: int) -> dict[str, float]:
    return {name: float(values[column]) for name, values in score._asdict().items()}
