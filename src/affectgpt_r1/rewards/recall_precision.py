"""Recall and precision of the emotion-wheel metric as two rewards (MER-R1, arXiv 2606.27652)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.metrics.functional.wheel_f1 import per_sample_scores, wheel_counts
from affectgpt_r1.types import Completion, EmotionSet


class SetScoreReward:
    """Mean over the five wheels of the level-1 recall, or precision, of answer and target."""

    def __init__(self, lexicon: Lexicon, score: Literal["recall", "precision"]) -> None:
        if score not in ("recall", "precision"):
            raise ConfigError(f"reward: score={score!r} is neither recall nor precision")
        self.name: str = score
        self.lexicon = lexicon

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return a score in [0, 1] for each completion, None where its target maps on no wheel."""
        scores = per_sample_scores(wheel_counts([one.labels for one in completions], targets, self.lexicon))
        values = scores.recall if self.name == "recall" else scores.precision  # (N, 5)
        num_wheels = scores.counted.sum(1)
        means = (values * scores.counted).sum(1) / np.maximum(num_wheels, 1)
        return [mean if counted else None for mean, counted in zip(means.tolist(), num_wheels.tolist(), strict=True)]
