"""Every published score of a corpus, with bootstrap intervals and constant baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from affectgpt_r1.emotion.wheels import LEVELS, NUM_WHEELS, Lexicon
from affectgpt_r1.metrics.bootstrap import STATISTICS, Statistic, bootstrap_interval
from affectgpt_r1.metrics.constant_baselines import CONSTANT_ANSWER, frequent_words
from affectgpt_r1.metrics.functional.wheel_f1 import (
    WheelCounts,
    ZeroDivision,
    count_unmapped,
    score_table,
    wheel_counts,
    word_counts,
)
from affectgpt_r1.types import EmotionSet

NUM_FREQUENT_WORDS = 3


def corpus_report(
    predictions: Sequence[EmotionSet],
    targets: Sequence[EmotionSet],
    lexicon: Lexicon,
    zero_division: ZeroDivision = "zero",
) -> dict[str, Any]:
    """Score ``N`` samples; see :func:`~affectgpt_r1.metrics.functional.wheel_f1.score_table` for the arguments.

    Returns:
        ``scores``, the table; ``intervals``, 95 % bootstrap bounds ``[low, high]`` under the same keys, absent where no
        target counts; ``baselines``, the same of the constant answers ``constant`` and ``frequent`` (the words that are
        in most of these very targets); ``samples``; ``counted``, the samples that count on each wheel at level 1;
        ``unmapped_rate`` of the predicted words.
    """
    unmapped, num_words = count_unmapped(predictions, lexicon)
    counted = (wheel_counts(targets, targets, lexicon).relevant > 0).sum(0)
    return {
        "lexicon": lexicon.name,
        "samples": len(targets),
        "counted": {f"wheel{wheel}": int(number) for wheel, number in enumerate(counted, start=1)},
        "unmapped_rate": unmapped / max(1, num_words),
        "scores": score_table(predictions, targets, lexicon, zero_division),
        "intervals": _intervals(predictions, targets, lexicon),
        "baselines": {
            kind: _baseline(words, targets, lexicon, zero_division)
            for kind, words in (
                ("constant", CONSTANT_ANSWER),
                ("frequent", frequent_words(targets, NUM_FREQUENT_WORDS)),
            )
        },
    }


def _baseline(
    words: EmotionSet, targets: Sequence[EmotionSet], lexicon: Lexicon, zero_division: ZeroDivision
) -> dict[str, Any]:
    answers = [words] * len(targets)
    means = {f"mean_level{level}": wheel_counts(answers, targets, lexicon, level) for level in LEVELS}
    return {
        "words": list(words),
        "scores": score_table(answers, targets, lexicon, zero_division),
        "intervals": {key: bounds for key, counts in means.items() if (bounds := _interval(counts, STATISTICS))},
    }


def _intervals(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon
) -> dict[str, dict[str, list[float]]]:
    intervals = {
        key: _interval(counts, STATISTICS if key.startswith("mean") else ("f1",))
        for key, counts in _all_counts(predictions, targets, lexicon)
    }
    return {key: bounds for key, bounds in intervals.items() if bounds}


def _all_counts(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon
) -> Iterator[tuple[str, WheelCounts]]:
    """Yield the counts whose mean over columns is the score of that name."""
    yield "case1", word_counts(predictions, targets, lexicon.base_form)
    yield "case2", word_counts(predictions, targets, lexicon.synonym)
    levels = [wheel_counts(predictions, targets, lexicon, level) for level in LEVELS]
    for level, counts in zip(LEVELS, levels, strict=True):
        yield f"mean_level{level}", counts
        for wheel in range(NUM_WHEELS):
            yield f"case3_wheel{wheel + 1}_level{level}", WheelCounts(*(part[:, [wheel]] for part in counts))
    # A word with a cluster at one level has one at the other, so the mean of the two means is the mean of all ten.
    yield "mer2025_challenge", WheelCounts(*(torch.cat(parts, dim=1) for parts in zip(*levels, strict=True)))


def _interval(counts: WheelCounts, statistics: Sequence[Statistic]) -> dict[str, list[float]]:
    if not bool((counts.relevant > 0).any()):
        return {}
    intervals = {statistic: bootstrap_interval(counts, statistic) for statistic in statistics}
    return {statistic: [interval.low, interval.high] for statistic, interval in intervals.items()}
