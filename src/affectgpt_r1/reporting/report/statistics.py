"""Student's t for a handful of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

CONFIDENCE = 0.95
_BISECTIONS = 200


class Estimate(NamedTuple):
    """A mean over seeds; ``low`` and ``high`` bound it, None where one value gives no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int


class PairedTest(NamedTuple):
    """A mean difference over seeds, its interval and its two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    n: int


def t_probability(t: float, degrees: int) -> float:
    """Probability that ``|T| <= t``, for Student's T with a whole number of degrees of freedom.

    The finite series of Abramowitz & Stegun (1964), 26.7.3 and 26.7.4.

    Args:
        t: Not negative.
        degrees: Degrees of freedom, at least 1.

    >>> round(t_probability(12.706, 1), 4), round(t_probability(2.0, 2), 4)
    (0.95, 0.8165)
    """
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))


def t_quantile(confidence: float, degrees: int) -> float:
    """The ``t`` with ``P(|T| <= t) = confidence``.

    >>> [round(t_quantile(0.95, degrees), 3) for degrees in (1, 2, 4)]
    [12.706, 4.303, 2.776]
    """
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < confidence:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < confidence else (low, middle)
    return high


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t interval of independent values; without bounds if there is but one.

    Raises:
        statistics.StatisticsError: If there is no value.
    """
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, len(values))
    half = t_quantile(CONFIDENCE, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def paired_t_test(differences: Sequence[float]) -> PairedTest | None:
    """Paired t test of the differences between two methods, seed by seed; None for fewer than two."""
    estimate = mean_interval(differences) if len(differences) > 1 else None
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    error = stdev(differences) / math.sqrt(len(differences))
    if error == 0:
        p = 1.0 if estimate.mean == 0 else 0.0
    else:
        p = max(0.0, 1 - t_probability(abs(estimate.mean) / error, len(differences) - 1))
    return PairedTest(estimate.mean, estimate.low, estimate.high, p, len(differences))
