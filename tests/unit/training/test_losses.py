"""The clipped loss against numbers worked by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.losses import aggregate, grpo_loss, kl_estimate, sampling_correction, top_entropy_mask

RATIOS = torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]], dtype=torch.float64)
OLD = torch.tensor([[-1.0, -2.0, -0.5], [-0.1, -3.0, -1.0]], dtype=torch.float64)
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([2.0, -1.0], dtype=torch.float64)
# epsilon 0.2.  A = 2: -min(3, 2.4), -min(1, 1.6), masked = -2.4, -1.0: sum -3.4, mean -1.7.
#               A = -1: -min(-1.5, -1.2), -min(-0.5, -0.8), -(-1) = 1.5, 0.8, 1.0: sum 3.3, mean 1.1.
BY_HAND = {"grpo": (-1.7 + 1.1) / 2, "bnpo": (-3.4 + 3.3) / 5, "dr_grpo": (-3.4 + 3.3) / (2 * 10)}


def policy_loss(*, logps=None, advantages=ADVANTAGES, reference=None, **options):
    logps = (OLD + RATIOS.log()).requires_grad_() if logps is None else logps
    config, entropies = GRPOConfig(**options), torch.zeros_like(OLD)
    loss = grpo_loss(logps, OLD, reference, advantages, MASK, config, entropies=entropies, max_completion_length=10)
    return logps, loss


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_worked_by_hand(loss_type):
    _, result = policy_loss(loss_type=loss_type)
    assert result.loss.item() == pytest.approx(BY_HAND[loss_type], abs=1e-12)
    metrics = {name: float(value) for name, value in result.logs.items()}
    assert metrics == pytest.approx(
        {
            "entropy": 0.0,
            "clip_ratio/low_mean": 1 / 5,  # second row, second token
            "clip_ratio/low_min": 0.0,
            "clip_ratio/high_mean": 1 / 5,  # first row, first token
            "clip_ratio/high_max": 1 / 2,
            "clip_ratio/region_mean": 2 / 5,
        }
    )


@pytest.mark.parametrize(("advantage", "low", "high"), [(1.0, 0.0, 2 / 5), (-1.0, 2 / 5, 0.0), (0.0, 0.0, 0.0)])
def test_only_the_side_that_the_advantage_pushes_to_counts_as_clipped(advantage, low, high):
    _, result = policy_loss(advantages=torch.full((2,), advantage, dtype=torch.float64))
    assert float(result.logs["clip_ratio/low_mean"]) == pytest.approx(low)
    assert float(result.logs["clip_ratio/high_mean"]) == pytest.approx(high)


# exp(old - sampling) is 4, 1/2 and, not counted, 8 in the first completion, and 1, 2, 1/8 in the second.
CORRECTED = {
    "token_truncate": [[3.0, 0.5], [1.0, 2.0, 0.25]],
    "token_mask": [[0.0, 0.5], [1.0, 2.0, 0.0]],
    "sequence_truncate": [[2.0], [0.25]],
    "sequence_mask": [[2.0], [0.25]],
}


@pytest.mark.parametrize("mode", CORRECTED)
def test_weights_of_tokens_that_another_program_drew(mode):
    ratios = torch.tensor([[4.0, 0.5, 8.0], [1.0, 2.0, 0.125]], dtype=torch.float64)
    config = GRPOConfig(vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=0.25, loss_type="bnpo")
    weights = sampling_correction(OLD, OLD - ratios.log(), MASK, config)
    assert weights.shape == ((2, 1) if mode.startswith("sequence") else (2, 3))
    rows = [
        [value for value, kept in zip(row, mask, strict=False) if kept] for row, mask in zip(weights, MASK, strict=True)
    ]
    for row, expected in zip(rows, CORRECTED[mode], strict=True):
        assert row == pytest.approx(expected, abs=1e-12)
    logps = OLD + RATIOS.log()
    reference = logps + math.log(2)
    config = dataclasses.replace(config, beta=0.5)
    entropies = torch.zeros_like(OLD)
    loss = grpo_loss(
        logps, OLD, reference, ADVANTAGES, MASK, config, entropies=entropies, importance_sampling_ratio=weights
    )
    # Without weights the tokens lose -2.4, -1.0 and 1.5, 0.8, 1.0; KL is not weighed.
    losses = [[-2.4, -1.0], [1.5, 0.8, 1.0]]
    by_token = [row * 3 if len(row) == 1 else row for row in CORRECTED[mode]]
    policy = sum(w * value for ws, row in zip(by_token, losses, strict=True) for w, value in zip(ws, row, strict=False))
    assert loss.loss.item() == pytest.approx(policy / 5 + 0.5 * (2 - math.log(2) - 1), abs=1e-12)
    flat = [value for row in CORRECTED[mode] for value in row]
    logs = {name: float(value) for name, value in loss.logs.items() if name.startswith("sampling/")}
    assert logs == pytest.approx(
        {
            "sampling/importance_sampling_ratio/mean": sum(flat) / len(flat),
            "sampling/importance_sampling_ratio/min": min(flat),
            "sampling/importance_sampling_ratio/max": max(flat),
        }
    )


def test_upper_clip_range_alone():
    _, result = policy_loss(epsilon_high=0.6)  # 1.5 is inside: the first token gives -3
    assert result.loss.item() == pytest.approx(((-3.0 - 1.0) / 2 + 1.1) / 2, abs=1e-12)
    assert float(result.logs["clip_ratio/high_mean"]) == 0
    assert float(result.logs["clip_ratio/low_mean"]) == pytest.approx(1 / 5)


def test_lower_clip_range_alone():
    _, result = policy_loss(epsilon=0.6, epsilon_high=0.2)  # 0.5 is inside: the fifth token gives 0.5
    assert result.loss.item() == pytest.approx((-1.7 + (1.5 + 0.5 + 1.0) / 3) / 2, abs=1e-12)
    assert float(result.logs["clip_ratio/low_mean"]) == 0
    assert float(result.logs["clip_ratio/high_mean"]) == pytest.approx(1 / 5)


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
    _, result = policy_loss(loss_type=loss_type, reference=reference, beta=0.5)
    k3 = 1 - math.log(2)
    share = {"grpo": 1.0, "bnpo": 1.0, "dr_grpo": 5 / 20}[loss_type]
    assert result.loss.item() == pytest.approx(BY_HAND[loss_type] + 0.5 * k3 * share, abs=1e-12)
    assert float(result.logs["kl"]) == pytest.approx(k3, abs=1e-12)


def test_penalty_pulls_far_drift_back():
    """Without a clamp the gradient of k3 grows with the drift: -(e^d - 1)."""
    logps = torch.tensor([-30.0], dtype=torch.float64, requires_grad=True)
    kl_estimate(logps, torch.tensor([-10.0], dtype=torch.float64)).sum().backward()
    assert logps.grad.item() == pytest.approx(-(math.exp(20) - 1), rel=1e-12)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k3_is_never_negative_but_for_rounding(logp, reference):
    value = kl_estimate(torch.tensor(logp, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)).item()
    assert value >= -1e-15
    assert value > 0 or abs(logp - reference) < 1e-7


def test_k3_of_equal_policies_is_zero():
    assert kl_estimate(torch.tensor([-1.25]), torch.tensor([-1.25])).item() == 0


def test_what_the_mask_hides_changes_nothing():
    logps = OLD + RATIOS.log()
    changed = logps.clone()
    changed[0, 2] += 3.0
    losses = [policy_loss(logps=one, reference=OLD, beta=0.1)[1].loss.item() for one in (logps, changed)]
    assert losses[0] == losses[1]


def test_a_beta_without_reference_is_refused():
    with pytest.raises(ValueError, match="ref_per_token_logps"):
        policy_loss(beta=0.1)


def test_an_empty_completion_divides_by_nothing():
    mask = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    values = torch.tensor([[7.0, 7.0], [1.0, 3.0]])
    assert aggregate(values, mask, "grpo", max_completion_length=2).item() == 1.0
    assert aggregate(values, mask, "bnpo", max_completion_length=2).item() == 2.0
    assert aggregate(values, torch.zeros(2, 2), "bnpo", max_completion_length=2).item() == 0.0


def test_dapo_and_cispo_divide_by_the_tokens_of_the_whole_generation():
    values, mask = torch.tensor([[1.0, 3.0]]), torch.ones(1, 2)
    for loss_type in ("dapo", "cispo"):
        assert aggregate(values, mask, loss_type, max_completion_length=9, tokens_per_step=8).item() == 0.5


def slow_loss(logps, ref, advantages, options):
    """One Python float at a time, from the papers' formulas, with the token mean."""
    high = options.epsilon if options.epsilon_high is None else options.epsilon_high
    total, count = 0.0, 0
    for row in range(2):
        tokens = [token for token in range(3) if MASK[row, token]]
        logs = {token: float(logps[row, token] - OLD[row, token]) for token in tokens}
        if options.importance_sampling_level == "sequence":
            logs = dict.fromkeys(tokens, sum(logs.values()) / len(tokens))
        for token in tokens:
            ratio, advantage = math.exp(logs[token]), float(advantages[row])
            if options.loss_type == "cispo":
                loss = -min(ratio, high) * advantage * float(logps[row, token])
            else:
                capped = ratio if options.delta is None else min(ratio, options.delta)
                loss = -min(capped * advantage, max(1 - options.epsilon, min(1 + high, ratio)) * advantage)
            gap = float(ref[row, token] - logps[row, token])
            kl = {"k1": -gap, "k2": gap**2 / 2, "k3": math.exp(gap) - gap - 1}[options.kl_estimator]
            total += loss + options.beta * kl * (ratio if options.use_bias_correction_kl else 1.0)
            count += 1
    return total / count


@given(
    st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6),
    st.sampled_from(["bnpo", "cispo"]),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from(["k1", "k2", "k3"]),
    st.booleans(),
    st.sampled_from([None, 1.1, 3.0]),
    st.sampled_from([None, 0.5, 4.0]),
)
def test_every_option_against_one_float_at_a_time(changes, loss_type, level, estimator, corrected, delta, high):
    logps = OLD + torch.tensor(changes, dtype=torch.float64).view(2, 3)
    reference = OLD - 0.3
    switches = {
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "kl_estimator": estimator,
        "use_bias_correction_kl": corrected,
        "delta": delta,
        "epsilon_high": high,
        "beta": 0.2,
    }
    _, result = policy_loss(logps=logps, reference=reference, **switches)
    expected = slow_loss(logps, reference, ADVANTAGES, GRPOConfig(**switches))
    assert result.loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_top_entropy_tokens_by_hand():
    entropies = torch.tensor([[0.1, 0.9, 9.0], [0.5, 0.3, 0.7]])  # 9.0 is masked; quantile 0.6 of the five is 0.58
    mask = MASK.float()
    assert top_entropy_mask(entropies, mask, 0.4).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert top_entropy_mask(entropies, torch.zeros_like(mask), 0.4).sum() == 0


def test_the_entropy_bonus_is_the_mean_entropy():
    entropies = torch.tensor([[0.5, 1.5, 9.0], [1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    advantages = torch.zeros(2, dtype=torch.float64)
    result = grpo_loss(OLD, OLD, None, advantages, MASK, GRPOConfig(entropy_coef=0.1), entropies=entropies)
    assert result.loss.item() == pytest.approx(-0.1 * 8.0 / 5)
    assert float(result.logs["policy_loss"]) == 0
    result.loss.backward()
    torch.testing.assert_close(entropies.grad, -0.1 * MASK / 5)
