"""The accuracy reward: the emotion-wheel metric of one answer, times a length penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.types import Completion, EmotionSet

Penalty: TypeAlias = Literal["none", "inverse_gap", "ratio", "log_ratio"]


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


def penalised_scores(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, penalty: Penalty
) -> list[float | None]:
    """Return wheel scores in [0, 1] times the length penalty; None where the target maps on no wheel."""
    scores = batch_mean_set_f1(predictions, targets, lexicon)
    return [
        None if score is None else score * length_factor(penalty, _num_distinct(prediction), _num_distinct(target))
        for score, prediction, target in zip(scores, predictions, targets, strict=True)
    ]


def check_penalty(penalty: Penalty) -> None:
    """Refuse an unknown penalty before the first reward is computed."""
    if penalty not in get_args(Penalty):
        raise ConfigError(f"penalty.name={penalty}: take one of {', '.join(get_args(Penalty))}")


def length_factor(penalty: Penalty, num_predicted: int, num_target: int) -> float:
    """Return the factor in [0, 1] that multiplies a reward: only words beyond the target's number are penalised.

    >>> length_factor("ratio", 4, 2)
    0.5
    >>> length_factor("inverse_gap", 2, 3)
    1.0
    """
    if num_predicted <= num_target or penalty == "none":
        return 1.0
    # |o| distinct words are answered, |y| are in the target; AffectGPT-R1, section on length penalties.
    if penalty == "inverse_gap":  # P1 = 1 / (|o| - |y| + 1)
        return 1.0 / (num_predicted - num_target + 1)
    if penalty == "ratio":  # P2 = |y| / |o|
        return num_target / num_predicted
    # P3 = log(|y| + 1) / log(|o| + 1): the paper's log|y| / log|o| would be 0 for every target of one word.
    return math.log(num_target + 1) / math.log(num_predicted + 1)


def _num_distinct(labels: EmotionSet) -> int:
    return len({label.strip().lower() for label in labels})
