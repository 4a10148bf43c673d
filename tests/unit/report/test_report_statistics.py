import math

import pytest

from affectgpt_r1.report.statistics import mean_interval, paired_t_test


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
