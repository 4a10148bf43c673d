"""Cluster counts in which ``neutral`` is a cluster of its own.

On the published wheels ``neutral`` has none: a neutral clip is dropped, and predicting ``neutral`` costs nothing. The
corrected metrics count both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import Floats, WheelCounts, wheel_counts
from affectgpt_r1.types import EmotionSet


def is_neutral(word: str) -> bool:
    """Return whether ``word`` is ``neutral``, without case."""
    return word.strip().lower() == "neutral"


def counts_with_neutral(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon
) -> WheelCounts:
    """Return cluster counts at level 1, with one more cluster per wheel that only ``neutral`` maps to."""
    counts = wheel_counts([_emotions(words) for words in predictions], [_emotions(words) for words in targets], lexicon)
    predicted, relevant = _has_neutral(predictions), _has_neutral(targets)
    return WheelCounts(
        hits=counts.hits + predicted * relevant,
        predicted=counts.predicted + predicted,
        relevant=counts.relevant + relevant,
    )


def _emotions(words: EmotionSet) -> EmotionSet:
    return tuple(word for word in words if not is_neutral(word))


def _has_neutral(samples: Sequence[EmotionSet]) -> Floats:
    """Return ``(N, 1)``."""
    return np.array([any(map(is_neutral, words)) for words in samples], np.float64).reshape(-1, 1)
