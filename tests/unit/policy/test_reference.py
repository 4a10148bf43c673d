"""The reference is the policy at the snapshot, whatever the policy has become."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.types import ClipBatch, TokenBatch


def take_a_step(policy: MultimodalPolicy, batch: ClipBatch, completions: TokenBatch) -> None:
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=1e-2)
    policy.per_token_logps(batch, completions).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_reference_is_the_policy_at_the_snapshot(policy, make_batch, completions):
    batch = make_batch()
    assert policy.reference_state() == {}
    policy.snapshot_reference()
    with torch.no_grad():
        before = policy.per_token_logps(batch, completions)
    take_a_step(policy, batch, completions)
    with torch.no_grad():
        after = policy.per_token_logps(batch, completions)
        with policy.reference():
            reference = policy.per_token_logps(batch, completions)
        again = policy.per_token_logps(batch, completions)
    assert torch.equal(reference, before)
    assert torch.equal(again, after)
    assert (after - before).abs().max() > 1e-2


@pytest.mark.parametrize("first", ["policy", "reference"])
def test_autocast_does_not_confuse_the_weights_of_policy_and_reference(policy, make_batch, completions, first):
    batch = make_batch()
    policy.snapshot_reference()
    take_a_step(policy, batch, completions)

    @torch.no_grad()
    def score(which: str) -> torch.Tensor:
        with policy.reference() if which == "reference" else nullcontext():
            return policy.per_token_logps(batch, completions)

    alone = {}
    for which in ("policy", "reference"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            alone[which] = score(which)
    assert (alone["policy"] - alone["reference"]).abs().max() > 1e-2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for which in (first, "policy", "reference", "policy"):
            assert torch.equal(score(which), alone[which])


def test_the_reference_ends_with_its_context_even_after_an_error(tiny_policy):
    tiny_policy.snapshot_reference()
    parameter = tiny_policy.fusion.video.projection.weight
    with torch.no_grad():
        parameter.add_(1.0)
    current = parameter.clone()

    def fail_inside() -> None:
        with tiny_policy.reference():
            assert torch.allclose(parameter, current - 1.0, atol=1e-6)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(parameter, current)


def test_a_restored_reference_is_the_saved_one(make_policy, make_batch, completions):
    batch, saved, restored = make_batch(), make_policy(), make_policy()
    saved.snapshot_reference()
    take_a_step(restored, batch, completions)
    restored.load_reference_state(saved.reference_state())
    with torch.no_grad(), restored.reference():
        reference = restored.per_token_logps(batch, completions)
    assert torch.equal(reference, saved.per_token_logps(batch, completions))


def test_no_reference_without_a_snapshot(tiny_policy):
    with pytest.raises(ConfigError, match=r"stage\.beta"), tiny_policy.reference():
        pass
