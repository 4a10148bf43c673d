"""The alignment reward of AffectGPT-R1: the emotions of the reasoning against those of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1, wheel_counts
from affectgpt_r1.rewards.dual import reasoning_labels
from affectgpt_r1.types import Completion, EmotionSet

AlignmentForm: TypeAlias = Literal["binary", "jaccard"]
AGREES_FROM = 0.5


class AlignmentReward:
    """Agreement of reasoning and answer on the wheels' clusters; the target is not read.

    ``binary`` is 1 where the wheel F1 of both is at least 0.5, else 0; ``jaccard`` is their overlap. Both are 0 where
    one of them names no known emotion. Without ``enable_thinking`` the reward never applies.
    """

    name = "alignment"

    def __init__(self, lexicon: Lexicon, form: AlignmentForm = "binary", *, enable_thinking: bool = True) -> None:
        if form not in ("binary", "jaccard"):
            raise ConfigError(f"alignment: form={form!r} is neither binary nor jaccard")
        self.lexicon = lexicon
        self.form = form
        self.enable_thinking = enable_thinking

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return a score in [0, 1] for each completion."""
        if not self.enable_thinking:
            return [None] * len(completions)
        reasoned = reasoning_labels(completions, self.lexicon)
        answered = [completion.labels for completion in completions]
        if self.form == "binary":  # accounts of the paper differ in which form it is
            scores = batch_mean_set_f1(reasoned, answered, self.lexicon)
            return [float(score is not None and score >= AGREES_FROM) for score in scores]
        return list(_mean_jaccard(reasoned, answered, self.lexicon))


def _mean_jaccard(reasoned: Sequence[EmotionSet], answered: Sequence[EmotionSet], lexicon: Lexicon) -> list[float]:
    counts = wheel_counts(reasoned, answered, lexicon)
    counted = counts.relevant > 0  # (N, 5): the wheels on which the answer maps
    # J = |R & A| / |R | A| on each wheel, with |R | A| = |R| + |A| - |R & A|.
    union = counts.predicted + counts.relevant - counts.hits
    overlap = np.where(counted, counts.hits / np.maximum(union, 1), 0.0)
    means: list[float] = (overlap.sum(-1) / np.maximum(counted.sum(-1), 1)).tolist()
    return means
