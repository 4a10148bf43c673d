"""Gradient checkpointing makes transformers forget its cache in training mode; neither pass may notice."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.types import Sampling


@pytest.mark.parametrize("share_prefix", [True, False])
def test_checkpointing_changes_neither_rollouts_nor_gradients(make_policy, make_batch, share_prefix):
    batch, found = make_batch(), []
    for checkpointing in (False, True):
        policy = make_policy(share_prefix=share_prefix)
        if checkpointing:
            policy.language_model.gradient_checkpointing_enable()
        policy.train()
        rollout = policy.generate(batch, 3, Sampling(max_completion_length=8), torch.Generator().manual_seed(1))
        logps = policy.per_token_logps(batch, rollout.completions)
        (logps * rollout.completions.mask).sum().backward()
        gradients = {name: one.grad for name, one in policy.trainable_parameters().items()}
        found.append((rollout, logps.detach(), gradients))
    (plain, plain_logps, plain_gradients), (other, logps, gradients) = found
    assert torch.equal(plain.completions.ids, other.completions.ids)
    torch.testing.assert_close(logps, plain_logps, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.per_token_logps, logps, atol=1e-4, rtol=0)
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
