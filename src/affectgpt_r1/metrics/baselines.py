"""Constant answers, which the wheel metric is known to reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from affectgpt_r1.types import EmotionSet

SPRAY: EmotionSet = ("happy", "sad", "angry")
"""The constant answer that the metric is known to reward."""


def frequent_words(targets: Sequence[EmotionSet], num_words: int) -> EmotionSet:
    """The ``num_words`` words that stand in most targets, ties by alphabet.

    >>> frequent_words([("sad", "Sad"), ("sad", "calm"), ("angry",)], 2)
    ('sad', 'angry')
    """
    counts = Counter(word for target in targets for word in {word.strip().lower() for word in target})
    return tuple(word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:num_words])
