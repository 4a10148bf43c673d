"""Length penalties against word spraying (AffectGPT-R1, P1 to P3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from affectgpt_r1.errors import ConfigError

Penalty: TypeAlias = Literal["none", "inverse_gap", "ratio", "log_ratio"]

_FACTORS: dict[str, Callable[[int, int], float]] = {
    "none": lambda predicted, target: 1.0,
    "inverse_gap": lambda predicted, target: 1.0 / (predicted - target + 1),
    "ratio": lambda predicted, target: target / predicted,
    "log_ratio": lambda predicted, target: math.log(target + 1) / math.log(predicted + 1),
}


def check_penalty(penalty: Penalty) -> None:
    """Refuse a penalty before the first reward is computed.

    Raises:
        ConfigError: It is none of the four.
    """
    if penalty not in _FACTORS:
        raise ConfigError(f"penalty.name={penalty}: take one of {', '.join(_FACTORS)}")


def length_factor(penalty: Penalty, num_predicted: int, num_target: int) -> float:
    """The factor that multiplies a reward when more words are answered than the target holds.

    With ``|o|`` distinct answered and ``|y|`` distinct target words: P1 ``1 / (|o| - |y| + 1)``,
    P2 ``|y| / |o|``, P3 ``log(|y| + 1) / log(|o| + 1)``. The paper's P3 without the ``+ 1`` is zero at ``|y| = 1``.

    Args:
        penalty: ``none``, ``inverse_gap`` (P1), ``ratio`` (P2) or ``log_ratio`` (P3).
        num_predicted: ``|o|``.
        num_target: ``|y|``.

    Returns:
        1 where ``|o| <= |y|``, else the factor in [0, 1).

    >>> length_factor("ratio", 4, 2)
    0.5
    >>> length_factor("inverse_gap", 2, 3)
    1.0
    """
    if num_predicted <= num_target:
        return 1.0
    return _FACTORS[penalty](num_predicted, num_target)
