"""Student's t for a few seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95


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


def mean_interval(values: Sequence[float]) -> Estimate:
    """Return mean and 95 % t interval of independent values; without bounds if there is only one.

    Raises:
        statistics.StatisticsError: ``values`` is empty.
    """
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, len(values))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def paired_t_test(differences: Sequence[float]) -> PairedTest | None:
    """Test the differences between two methods, seed by seed, by Student's paired t test; None for fewer than two."""
    estimate = mean_interval(differences) if len(differences) > 1 else None
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    error = stdev(differences) / math.sqrt(len(differences))
    if error == 0:  # scipy would answer NaN
        p = 1.0 if estimate.mean == 0 else 0.0
    else:
        p = 2 * float(stats.t.sf(abs(estimate.mean) / error, len(differences) - 1))
    return PairedTest(estimate.mean, estimate.low, estimate.high, p, len(differences))
