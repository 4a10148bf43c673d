"""The hit rate of open-vocabulary predictions on sets with one basic emotion per clip (MER-UniBench).

Published (Lian et al., "AffectGPT", ICML 2025): ``hit_rate`` and ``mscore``. They drop neutral clips, for which no
wheel has a cluster, and a prediction that names everything scores 1. ``corrected`` gives ``neutral`` a cluster of its
own and divides by what was predicted. Words that map nowhere cost nothing in any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.metrics.functional.neutral import counts_with_neutral
from affectgpt_r1.metrics.functional.wheel_f1 import Floats, NoTarget, _mean_over_wheels, wheel_counts
from affectgpt_r1.types import EmotionSet


class HitRateScores(NamedTuple):
    """Means over the wheels, NaN where no sample counts."""

    hit_rate: float
    mscore: float
    corrected: float


def hit_rate(
    predictions: Sequence[EmotionSet],
    targets: Sequence[str],
    classes: Sequence[str],
    lexicon: Lexicon,
    no_target: NoTarget = "leave",
) -> HitRateScores:
    """Return hit rate, mscore and corrected metric of ``N`` samples; ``classes`` are all of the set.

    ``no_target`` is of the published two.

    >>> from affectgpt_r1.emotion.bundled import load_bundled
    >>> scores = hit_rate([("joyful", "afraid")], ["happy"], ["happy", "sad", "neutral"], load_bundled())
    >>> scores.hit_rate, scores.mscore, scores.corrected
    (1.0, 1.0, 0.5)
    """
    single = [(target,) for target in targets]
    counts = wheel_counts(predictions, single, lexicon)
    among_classes = wheel_counts(predictions, [tuple(classes)] * len(single), lexicon).hits
    extended = counts_with_neutral(predictions, single, lexicon)
    # On one wheel at level 1: G the target's cluster, Y those of the prediction, C those of all classes.
    return HitRateScores(
        # mean |G & Y|
        hit_rate=_mean(counts.hits, counts.relevant, no_target),
        # mean |G & Y| / |Y & C|, 0 where Y & C is empty
        mscore=_mean(counts.hits / np.maximum(among_classes, 1), counts.relevant, no_target),
        # mean |G & Y| / |Y|: the accuracy of an answer drawn from the predicted clusters
        corrected=_mean(extended.hits / np.maximum(extended.predicted, 1), extended.relevant),
    )


def _mean(values: Floats, relevant: Floats, no_target: NoTarget = "leave") -> float:
    """Return the mean of ``values`` (N, 5) over the samples whose target maps onto the wheel, then over the wheels."""
    counted = np.count_nonzero(relevant, axis=0).astype(np.float64)
    with np.errstate(invalid="ignore"):  # NaN on a wheel where no sample counts
        means = (values * (relevant > 0)).sum(0) / counted
    return float(_mean_over_wheels(means, counted, no_target))
