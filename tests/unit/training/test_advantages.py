"""Group advantages against numbers worked by hand, and their invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.training.advantages import group_advantages, objective_advantages, zero_std_groups

NAN = math.nan

rewards_tables = st.integers(2, 6).flatmap(
    lambda width: st.lists(st.lists(st.floats(0, 1, width=32), min_size=width, max_size=width), min_size=1, max_size=5)
)


def test_worked_by_hand():
    # Mean 3, deviations -2 -1 0 3, unbiased variance (4 + 1 + 0 + 9) / 3 = 14 / 3.
    scale = math.sqrt(14 / 3) + 1e-4
    advantages = group_advantages(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
    torch.testing.assert_close(advantages, torch.tensor([[-2 / scale, -1 / scale, 0.0, 3 / scale]]))


def test_unscaled_worked_by_hand():
    advantages = group_advantages(torch.tensor([[0.0, 1.0], [0.25, 0.75]]), scale="none")
    torch.testing.assert_close(advantages, torch.tensor([[-0.5, 0.5], [-0.25, 0.25]]))


def test_a_pair_has_the_deviation_of_half_its_difference_times_root_two():
    scale = math.sqrt(0.5) + 1e-4
    torch.testing.assert_close(
        group_advantages(torch.tensor([[0.0, 1.0]])), torch.tensor([[-0.5 / scale, 0.5 / scale]])
    )


def test_unknown_rewards_get_no_advantage_and_do_not_shift_the_others():
    advantages = group_advantages(torch.tensor([[1.0, NAN, 3.0], [NAN, NAN, NAN], [NAN, 5.0, NAN]]))
    scale = math.sqrt(2.0) + 1e-4
    expected = torch.tensor([[-1 / scale, 0.0, 1 / scale], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(advantages, expected)


def test_each_row_is_a_group_of_its_own():
    rewards = torch.tensor([[0.0, 1.0, 0.5], [10.0, 20.0, 60.0]])
    alone = torch.cat([group_advantages(row[None]) for row in rewards])
    assert torch.equal(group_advantages(rewards), alone)


@given(rewards_tables)
def test_each_row_sums_to_zero(rows):
    advantages = group_advantages(torch.tensor(rows, dtype=torch.float64))
    torch.testing.assert_close(advantages.sum(1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-9, rtol=0)


@given(rewards_tables, st.floats(0.5, 8))
def test_scale_invariant_up_to_the_epsilon(rows, factor):
    """Multiplying by k divides the epsilon by k, and changes nothing else."""
    rewards = torch.tensor(rows, dtype=torch.float64)
    deviation = rewards.std(1, keepdim=True)
    expected = group_advantages(rewards) * (deviation + 1e-4) / (deviation + 1e-4 / factor)
    torch.testing.assert_close(group_advantages(rewards * factor), expected, atol=1e-9, rtol=1e-9)


@given(rewards_tables, st.floats(-4, 4))
def test_shift_invariant(rows, shift):
    rewards = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards + shift), group_advantages(rewards), atol=1e-9, rtol=1e-9)


def test_zero_std_is_judged_with_a_tolerance():
    noise = 0.1 + 0.2 - 0.3  # float noise: not 0
    rewards = torch.tensor(
        [[0.3, 0.3 + noise, 0.3], [0.3, 0.3 + 5e-7, 0.3], [0.3, 0.301, 0.3], [NAN, NAN, NAN], [NAN, 0.3, 0.3]],
        dtype=torch.float64,
    )
    assert zero_std_groups(rewards).tolist() == [True, True, False, True, True]


def test_float_noise_is_not_blown_up():
    rewards = torch.tensor([[0.3, 0.3 + 1e-7, 0.3, 0.3]], dtype=torch.float64)
    assert group_advantages(rewards).abs().max().item() == pytest.approx(0, abs=1e-3)


def test_batch_scaling_divides_by_the_deviation_of_all():
    rewards = torch.tensor([[0.0, 1.0], [2.0, 5.0]])  # mean 2, squares 4 1 0 9, unbiased variance 14 / 3
    scale = math.sqrt(14 / 3) + 1e-4
    expected = torch.tensor([[-0.5, 0.5], [-1.5, 1.5]]) / scale
    torch.testing.assert_close(group_advantages(rewards, "batch"), expected)


def test_objectives_normalised_one_by_one_worked_by_hand():
    """Two rewards of unequal size count alike; with a pair, z is +-1 / sqrt(2) up to the epsilon."""
    parts = torch.tensor([[[0.0, 10.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 10.0]]], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    first = 0.5 / (math.sqrt(0.5) + 1e-4)
    second = 5.0 / (math.sqrt(50.0) + 1e-4)
    sums = torch.tensor([[0.5 * second - first, first - 0.5 * second], [-first - 0.5 * second, first + 0.5 * second]])
    expected = sums.double() / (sums.double().std() + 1e-4)
    torch.testing.assert_close(objective_advantages(parts, weights), expected, atol=1e-6, rtol=1e-6)


def test_objectives_that_do_not_apply_count_for_nothing():
    parts = torch.tensor([[[0.0, NAN], [1.0, NAN]], [[0.0, 0.5], [NAN, NAN]]])
    advantages = objective_advantages(parts, torch.tensor([1.0, 1.0]))
    assert advantages[1, 1].item() == 0
    assert advantages[0, 1].item() == pytest.approx(-advantages[0, 0].item())
    assert advantages.isfinite().all()
