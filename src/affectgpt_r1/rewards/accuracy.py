"""The accuracy reward: the emotion-wheel metric of one answer."""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.rewards.penalty import Penalty, check_penalty
from affectgpt_r1.rewards.wheel_score import penalised_scores
from affectgpt_r1.types import Completion, EmotionSet


class AccuracyReward:
    """Mean over the five wheels of the level-1 set F1 of answer and target, times the length penalty."""

    name = "accuracy"

    def __init__(self, lexicon: Lexicon, penalty: Penalty = "none") -> None:
        check_penalty(penalty)
        self.lexicon = lexicon
        self.penalty = penalty

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return a score in [0, 1] for each completion, None where its target maps on no wheel."""
        return penalised_scores([completion.labels for completion in completions], targets, self.lexicon, self.penalty)
