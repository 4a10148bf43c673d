"""Length penalties P1 to P3 by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.rewards.accuracy import AccuracyReward, length_factor
from affectgpt_r1.rewards.dual import DualReward

PENALTIES = ("none", "inverse_gap", "ratio", "log_ratio")


@pytest.mark.parametrize(
    ("penalty", "num_predicted", "num_target", "expected"),
    [
        ("none", 9, 2, 1.0),
        ("inverse_gap", 3, 2, 1 / 2),
        ("inverse_gap", 5, 2, 1 / 4),
        ("ratio", 3, 2, 2 / 3),
        ("ratio", 8, 2, 1 / 4),
        ("log_ratio", 3, 1, 1 / 2),  # log 2 / log 4; the paper's form would be 0
        ("log_ratio", 8, 2, 1 / 2),  # log 3 / log 9
        ("log_ratio", 3, 2, math.log(3) / math.log(4)),
    ],
)
def test_worked_by_hand(penalty, num_predicted, num_target, expected):
    assert length_factor(penalty, num_predicted, num_target) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("num_predicted", "num_target"), [(0, 0), (0, 3), (1, 1), (2, 3), (3, 3)])
def test_no_penalty_up_to_the_target_length(penalty, num_predicted, num_target):
    assert length_factor(penalty, num_predicted, num_target) == 1.0


@given(st.sampled_from(PENALTIES[1:]), st.integers(0, 30), st.integers(1, 30))
def test_every_further_word_costs(penalty, num_target, extra):
    shorter, longer = (length_factor(penalty, num_target + words, num_target) for words in (extra, extra + 1))
    assert 0 <= longer <= shorter < 1
    assert longer < shorter or num_target == 0


@pytest.mark.parametrize("reward", [AccuracyReward, DualReward])
def test_an_unknown_penalty_is_refused_before_the_first_reward(reward):
    with pytest.raises(ConfigError, match=r"penalty\.name=cubic: take one of none, inverse_gap"):
        reward(load_lexicon("bundled"), "cubic")
