"""The accuracy reward: the emotion-wheel metric of one answer."""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.rewards.penalty import Penalty, check_penalty
from affectgpt_r1.rewards.wheel_score import penalised_scores
from affectgpt_r1.types import Completion, EmotionSet


class AccuracyReward:
    """Mean over the five wheels of the level-1 set F1 of answer and target, by the evaluation's own function.

    Args:
        lexicon: The words' clusters.
        penalty: The length penalty that multiplies the score.

    Raises:
        ConfigError: There is no such penalty.
    """

    name = "accuracy"

    def __init__(self, lexicon: Lexicon, penalty: Penalty = "none") -> None:
        check_penalty(penalty)
        self.lexicon = lexicon
        self.penalty = penalty

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """See :class:`~affectgpt_r1.rewards.base.Reward`; None where the target maps on no wheel."""
        return penalised_scores([completion.labels for completion in completions], targets, self.lexicon, self.penalty)
