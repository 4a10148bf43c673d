"""The precomputed gradients against autograd through the full loss."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.engine.base import mean_loss_grads
from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.losses import grpo_loss, precompute_policy_grads, sampling_correction
from affectgpt_r1.training.sft import masked_mean
from affectgpt_r1.types import TokenBatch

N, C = 6, 7


def inputs_of(seed, *, on_policy, truncated):
    """Scored tokens, and the loss's inputs; the first completion may be left out of the loss."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, C + 1, (N, 1), generator=generator)
    scored = torch.arange(C) < lengths
    logps = -3 * torch.rand(N, C, generator=generator, dtype=torch.float64) * scored
    old, reference = (logps + 0.4 * torch.randn(N, C, generator=generator) * scored for _ in range(2))
    mask = scored.double()
    mask[0] *= 1 - truncated
    advantages = torch.randn(N, generator=generator, dtype=torch.float64)
    return scored, SimpleNamespace(
        per_token_logps=logps.requires_grad_(),
        completions=TokenBatch(torch.zeros_like(mask), scored.double()),
        old_per_token_logps=None if on_policy else old.detach(),
        sampling_per_token_logps=(logps + 0.4 * torch.randn(N, C, generator=generator) * scored).detach(),
        ref_per_token_logps=reference.detach(),
        advantages=advantages,
        completion_mask=mask,
    )


@given(
    seed=st.integers(0, 1000),
    loss_type=st.sampled_from(["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]),
    beta=st.sampled_from([0.0, 0.04]),
    kl_estimator=st.sampled_from(["k1", "k2", "k3"]),
    bias_correction=st.booleans(),
    delta=st.sampled_from([None, 1.3]),
    on_policy=st.booleans(),
    truncated=st.booleans(),
    tokens_per_step=st.sampled_from([None, 50.0]),
    correction=st.sampled_from([None, "token_truncate", "token_mask"]),
)
@settings(max_examples=30, deadline=None)
def test_token_losses_are_precomputed_up_to_one_factor(
    seed, loss_type, beta, kl_estimator, bias_correction, delta, on_policy, truncated, tokens_per_step, correction
):
    options = GRPOConfig(
        loss_type=loss_type,
        beta=beta,
        kl_estimator=kl_estimator,
        use_bias_correction_kl=bias_correction,
        delta=delta,
        epsilon_high=0.3,
        vllm_importance_sampling_mode=correction or "token_truncate",
        vllm_importance_sampling_clip_max=1.2,
    )
    scored, inputs = inputs_of(seed, on_policy=on_policy, truncated=truncated)
    logps = inputs.per_token_logps
    old = logps.detach() if on_policy else inputs.old_per_token_logps
    weights = sampling_correction(old, inputs.sampling_per_token_logps, inputs.completion_mask, options)
    loss = grpo_loss(
        logps,
        old,
        inputs.ref_per_token_logps,
        inputs.advantages,
        inputs.completion_mask,
        options,
        entropies=torch.zeros_like(logps),
        importance_sampling_ratio=weights if correction else None,
        max_completion_length=10,
        tokens_per_step=tokens_per_step,
    ).loss
    expected = torch.autograd.grad(loss, inputs.per_token_logps)[0]
    assert not expected[~scored].any()
    expected = expected[scored]
    precomputed_grads = precompute_policy_grads(options, inputs, corrects=correction is not None)
    logps = inputs.per_token_logps.detach()[scored]
    middle = len(logps) // 2
    precomputed = torch.cat(
        [precomputed_grads(logps[rows], rows) for rows in (slice(0, middle), slice(middle, len(logps)))]
    )
    assert not precomputed.requires_grad
    tokens = inputs.completion_mask.sum() if tokens_per_step is None else tokens_per_step
    divisor = {"grpo": N, "dr_grpo": N * 10, "bnpo": inputs.completion_mask.sum()}.get(loss_type, tokens)
    torch.testing.assert_close(precomputed / divisor, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"importance_sampling_level": "sequence"}, {"top_entropy_quantile": 0.2}, {"entropy_coef": 0.01}],
)
def test_losses_that_join_tokens_or_read_entropies_are_not_precomputed(options):
    _, inputs = inputs_of(0, on_policy=True, truncated=False)
    assert precompute_policy_grads(GRPOConfig(**options), inputs) is None


def test_weights_of_completions_are_not_precomputed():
    _, inputs = inputs_of(0, on_policy=True, truncated=False)
    options = GRPOConfig(vllm_importance_sampling_mode="sequence_mask")
    assert precompute_policy_grads(options, inputs, corrects=True) is None
    assert precompute_policy_grads(options, inputs) is not None


def test_the_mean_is_precomputed():
    scored, inputs = inputs_of(1, on_policy=True, truncated=False)
    loss = -masked_mean(inputs.per_token_logps, scored.double())
    expected = torch.autograd.grad(loss, inputs.per_token_logps)[0][scored]
    torch.testing.assert_close(-mean_loss_grads(expected, slice(0, len(expected))) / scored.sum(), expected)
