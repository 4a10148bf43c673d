"""Length penalties against answers that list every emotion (AffectGPT-R1, P1 to P3)."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

from affectgpt_r1.errors import ConfigError

Penalty: TypeAlias = Literal["none", "inverse_gap", "ratio", "log_ratio"]


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
