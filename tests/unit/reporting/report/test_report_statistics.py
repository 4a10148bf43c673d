import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.reporting.report.statistics import mean_interval, paired_t_test, t_probability, t_quantile


@pytest.mark.parametrize(
    ("confidence", "degrees", "quantile"),
    [(0.95, 1, 12.7062), (0.95, 2, 4.30265), (0.95, 3, 3.18245), (0.95, 9, 2.26216), (0.95, 120, 1.97993),
     (0.99, 4, 4.60409), (0.9, 7, 1.89458)],
)  # fmt: skip
def test_quantiles_of_the_printed_tables(confidence, degrees, quantile):
    assert t_quantile(confidence, degrees) == pytest.approx(quantile, abs=6e-5)


@given(st.integers(1, 30), st.floats(0.01, 8))
def test_probability_is_the_integral_of_the_density(degrees, t):
    x = np.linspace(-t, t, 20_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    assert t_probability(t, degrees) == pytest.approx(np.trapezoid(density, x), abs=1e-6)


def test_interval_of_three_seeds_by_hand():
    mean, low, high, n = mean_interval([1.0, 2.0, 6.0])  # deviation sqrt(7), error sqrt(7/3)
    assert (mean, n) == (3.0, 3)
    assert high - mean == pytest.approx(4.302653 * math.sqrt(7 / 3), abs=1e-5)
    assert mean - low == pytest.approx(high - mean)


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) == (0.5, None, None, 1)
    assert paired_t_test([0.5]) is None
    assert paired_t_test([]) is None


def test_paired_test_by_hand():
    difference, low, high, p, n = paired_t_test([1.0, 2.0, 3.0])  # t = 2 / (1 / sqrt 3) = 3.4641
    assert (difference, n) == (2.0, 3)
    assert (low, high) == (pytest.approx(-0.48414, abs=1e-5), pytest.approx(4.48414, abs=1e-5))
    assert p == pytest.approx(1 - 3.4641016 / math.sqrt(2 + 12), abs=1e-6)  # two degrees have a closed form


def test_differences_without_spread():
    assert paired_t_test([0.0, 0.0]).p == 1.0
    assert paired_t_test([0.25, 0.25]) == (0.25, 0.25, 0.25, 0.0, 2)
