"""The clipped loss against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.functional.losses import aggregate, clipped_policy_loss, k3_kl

RATIOS = torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]], dtype=torch.float64)
OLD = torch.tensor([[-1.0, -2.0, -0.5], [-0.1, -3.0, -1.0]], dtype=torch.float64)
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([2.0, -1.0], dtype=torch.float64)
# epsilon 0.2.  A = 2: -min(3, 2.4), -min(1, 1.6), masked = -2.4, -1.0: sum -3.4, mean -1.7.
#               A = -1: -min(-1.5, -1.2), -min(-0.5, -0.8), -(-1) = 1.5, 0.8, 1.0: sum 3.3, mean 1.1.
BY_HAND = {"grpo": (-1.7 + 1.1) / 2, "bnpo": (-3.4 + 3.3) / 5, "dr_grpo": (-3.4 + 3.3) / (2 * 10)}


def policy_loss(**changes):
    logps = (OLD + RATIOS.log()).requires_grad_()
    return logps, clipped_policy_loss(logps, OLD, ADVANTAGES, MASK, **{"max_completion_length": 10, **changes})


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_worked_by_hand(loss_type):
    _, result = policy_loss(loss_type=loss_type)
    assert result.loss.item() == pytest.approx(BY_HAND[loss_type], abs=1e-12)
    assert result.clip_low.item() == pytest.approx(1 / 5)  # second row, second token
    assert result.clip_high.item() == pytest.approx(1 / 5)  # first row, first token
    assert result.kl.item() == 0


@pytest.mark.parametrize(("advantage", "low", "high"), [(1.0, 0.0, 2 / 5), (-1.0, 2 / 5, 0.0), (0.0, 0.0, 0.0)])
def test_only_the_side_that_the_advantage_pushes_to_counts_as_clipped(advantage, low, high):
    logps = OLD + RATIOS.log()
    result = clipped_policy_loss(logps, OLD, torch.full((2,), advantage, dtype=torch.float64), MASK)
    assert (result.clip_low.item(), result.clip_high.item()) == pytest.approx((low, high))


def test_upper_clip_range_alone():
    _, result = policy_loss(epsilon_high=0.6)  # 1.5 is inside: the first token gives -3
    assert result.loss.item() == pytest.approx(((-3.0 - 1.0) / 2 + 1.1) / 2, abs=1e-12)
    assert result.clip_high.item() == 0
    assert result.clip_low.item() == pytest.approx(1 / 5)


def test_lower_clip_range_alone():
    _, result = policy_loss(epsilon=0.6, epsilon_high=0.2)  # 0.5 is inside: the fifth token gives 0.5
    assert result.loss.item() == pytest.approx((-1.7 + (1.5 + 0.5 + 1.0) / 3) / 2, abs=1e-12)
    assert result.clip_low.item() == 0
    assert result.clip_high.item() == pytest.approx(1 / 5)


def test_clipped_tokens_have_no_gradient_and_others_that_of_the_ratio():
    logps, result = policy_loss(loss_type="bnpo")
    result.loss.backward()
    # d(-rho A)/dlogp = -rho A, over five tokens; 0 where the clip binds or the mask is 0.
    expected = torch.tensor([[0.0, -1.0, 0.0], [1.5, 0.0, 1.0]], dtype=torch.float64) / 5
    torch.testing.assert_close(logps.grad, expected)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_penalty_adds_beta_times_k3(loss_type):
    logps = OLD + RATIOS.log()
    reference = logps + math.log(2)  # k3 = 2 - ln 2 - 1 at every token
    _, result = policy_loss(loss_type=loss_type, ref_per_token_logps=reference, beta=0.5)
    k3 = 1 - math.log(2)
    share = {"grpo": 1.0, "bnpo": 1.0, "dr_grpo": 5 / 20}[loss_type]
    assert result.loss.item() == pytest.approx(BY_HAND[loss_type] + 0.5 * k3 * share, abs=1e-12)
    assert result.kl.item() == pytest.approx(k3, abs=1e-12)


def test_penalty_pulls_far_drift_back():
    """Without a clamp the gradient of k3 grows with the drift: -(e^d - 1)."""
    logps = torch.tensor([-30.0], dtype=torch.float64, requires_grad=True)
    k3_kl(logps, torch.tensor([-10.0], dtype=torch.float64)).sum().backward()
    assert logps.grad.item() == pytest.approx(-(math.exp(20) - 1), rel=1e-12)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k3_is_never_negative_but_for_rounding(logp, reference):
    value = k3_kl(torch.tensor(logp, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)).item()
    assert value >= -1e-15
    assert value > 0 or abs(logp - reference) < 1e-7


def test_k3_of_equal_policies_is_zero():
    assert k3_kl(torch.tensor([-1.25]), torch.tensor([-1.25])).item() == 0


def test_what_the_mask_hides_changes_nothing():
    logps = OLD + RATIOS.log()
    changed = logps.clone()
    changed[0, 2] += 3.0
    losses = [
        clipped_policy_loss(one, OLD, ADVANTAGES, MASK, ref_per_token_logps=OLD, beta=0.1).loss.item()
        for one in (logps, changed)
    ]
    assert losses[0] == losses[1]


def test_a_beta_without_reference_is_refused():
    with pytest.raises(ValueError, match="ref_per_token_logps"):
        policy_loss(beta=0.1)


def test_an_empty_completion_divides_by_nothing():
    mask = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    values = torch.tensor([[7.0, 7.0], [1.0, 3.0]])
    assert aggregate(values, mask, "grpo", 2).item() == 1.0
    assert aggregate(values, mask, "bnpo", 2).item() == 2.0
    assert aggregate(values, torch.zeros(2, 2), "bnpo", 2).item() == 0.0
