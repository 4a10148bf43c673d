"""Every published score of a corpus, with bootstrap intervals and constant baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from affectgpt_r1.emotion.wheels import LEVELS, NUM_WHEELS, Lexicon
from affectgpt_r1.metrics.bootstrap import bootstrap_intervals
from affectgpt_r1.metrics.constant_baselines import CONSTANT_ANSWER, frequent_words
from affectgpt_r1.metrics.functional.wheel_f1 import (
    NoTarget,
    WheelCounts,
    ZeroDivision,
    code_sets,
    corpus_counts,
    corpus_scores,
    count_unmapped,
)
from affectgpt_r1.types import EmotionSet

NUM_FREQUENT_WORDS = 3


def corpus_report(
    predictions: Sequence[EmotionSet],
    targets: Sequence[EmotionSet],
    lexicon: Lexicon,
    zero_division: ZeroDivision = "zero",
    no_target: NoTarget = "leave",
) -> dict[str, Any]:
    """Score ``N`` samples; see :func:`~affectgpt_r1.metrics.functional.wheel_f1.score_table` for the arguments.

    Returns:
        ``scores``, the table; ``intervals``, 95 % bootstrap bounds ``[low, high]`` under the same keys, absent where no
        target counts; ``baselines``, the same of the constant answers ``constant`` and ``frequent`` (the words that are
        in most of these very targets); ``samples``; ``counted``, the samples that count on each wheel at level 1;
        ``unmapped_rate`` of the predicted words.
    """
    constant = {
        "constant": CONSTANT_ANSWER,
        "frequent": frequent_words(targets, NUM_FREQUENT_WORDS),
    }
    expected = code_sets(targets, lexicon)
    counts = corpus_counts(code_sets(predictions, lexicon), expected, lexicon)
    of_constant = {
        kind: corpus_counts(code_sets([words], lexicon).repeated(len(targets)), expected, lexicon)
        for kind, words in constant.items()
    }
    figures = dict(_figures(counts))
    for kind, own in of_constant.items():
        figures |= {f"{kind}/mean_level{level}": own[f"level{level}"] for level in LEVELS}
    bounds = _bounds(figures, no_target)  # one resampling for all, so that no clip is drawn twice for two figures
    counted = np.count_nonzero(counts["level1"].relevant, axis=0)
    unmapped, num_words = count_unmapped(predictions, lexicon)
    return {
        "lexicon": lexicon.name,
        "samples": len(targets),
        "counted": {f"wheel{wheel}": int(number) for wheel, number in enumerate(counted, start=1)},
        "unmapped_rate": unmapped / max(1, num_words),
        "scores": corpus_scores(counts, zero_division, no_target),
        "intervals": {key: of_key for key, of_key in bounds.items() if "/" not in key},
        "baselines": {
            kind: {
                "words": list(words),
                "scores": corpus_scores(of_constant[kind], zero_division, no_target),
                "intervals": {
                    key.partition("/")[2]: of_key for key, of_key in bounds.items() if key.startswith(f"{kind}/")
                },
            }
            for kind, words in constant.items()
        },
    }


def _bounds(figures: Mapping[str, WheelCounts], no_target: NoTarget) -> dict[str, dict[str, list[float]]]:
    """Return the bounds of every figure, of F1 alone where it is not a mean over the wheels."""
    return {
        key: {
            statistic: [interval.low, interval.high]
            for statistic, interval in intervals.items()
            if statistic == "f1" or "mean" in key
        }
        for key, intervals in bootstrap_intervals(figures, no_target=no_target).items()
    }


def _figures(counts: Mapping[str, WheelCounts]) -> Iterator[tuple[str, WheelCounts]]:
    """Yield the counts whose mean over columns is the score of that name."""
    yield "case1", counts["case1"]
    yield "case2", counts["case2"]
    levels = [counts[f"level{level}"] for level in LEVELS]
    for level, of_level in zip(LEVELS, levels, strict=True):
        yield f"mean_level{level}", of_level
        for wheel in range(NUM_WHEELS):
            yield f"case3_wheel{wheel + 1}_level{level}", WheelCounts(*(part[:, [wheel]] for part in of_level))
    # A word with a cluster at one level has one at the other, so the mean of the two means is the mean of all ten.
    yield "mer2025_challenge", WheelCounts(*(np.concatenate(parts, axis=1) for parts in zip(*levels, strict=True)))
