"""The accuracy reward: the emotion-wheel metric of one answer."""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.metrics.functional.wheel import batch_mean_set_f1
from affectgpt_r1.rewards.penalty import Penalty, length_factor
from affectgpt_r1.types import Completion, EmotionSet


class AccuracyReward:
    """Mean over the five wheels of the level-1 set F1 of answer and target, by the evaluation's own function.

    Args:
        lexicon: The words' clusters.
        penalty: The length penalty that multiplies the score.
    """

    name = "accuracy"

    def __init__(self, lexicon: Lexicon, penalty: Penalty = "none") -> None:
        self.lexicon = lexicon
        self.penalty = penalty

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """See :class:`~affectgpt_r1.rewards.base.Reward`; None where the target maps on no wheel."""
        scores = batch_mean_set_f1([completion.labels for completion in completions], targets, self.lexicon)
        return [
            None if score is None else score * length_factor(self.penalty, _num_distinct(labels), _num_distinct(target))
            for score, labels, target in zip(
                scores, (completion.labels for completion in completions), targets, strict=True
            )
        ]


def _num_distinct(labels: EmotionSet) -> int:
    return len({label.strip().lower() for label in labels})
