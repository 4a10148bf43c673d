"""Media tokens of every fusion stand in the prompt where their placeholders were."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from affectgpt_r1.policy.fusion import FUSIONS
from affectgpt_r1.types import Sampling

GREEDY = Sampling(temperature=0.0, max_completion_length=4)


@pytest.mark.parametrize("kind", FUSIONS)
def test_prompts_hold_the_fusions_tokens(kind, make_policy, make_batch):
    policy, batch = make_policy(fusion=kind).eval(), make_batch()
    tokens = policy.fusion(policy.encoders(batch))
    prompts = policy.embed_prompts(batch)
    for values in tokens.values():
        for clip in range(len(batch)):
            at = (prompts.embeds[clip].unsqueeze(1) == values[clip, 0]).all(-1).any(-1).nonzero().flatten()
            start = int(at[0])
            torch.testing.assert_close(prompts.embeds[clip, start : start + values.shape[1]], values[clip])
    assert ("<MultiHere>" in policy.prompts(batch)[0]) == (kind != "none") == ("multi" in tokens)


def test_generation_and_scoring_agree_on_many_tokens(make_policy, make_batch):
    policy, batch = make_policy(fusion="qformer").eval(), make_batch()
    rollout = policy.generate(batch, 1, GREEDY)
    scored = policy.per_token_logps(batch, rollout.completions)
    torch.testing.assert_close(scored * rollout.completions.mask, rollout.per_token_logps, atol=1e-4, rtol=1e-4)


def test_bos_at_inference_is_a_switch(make_policy, make_batch):
    policy, batch = make_policy().eval(), make_batch()
    with_bos = policy.embed_prompts(batch)
    without = policy.embed_prompts(batch, bos=False)
    assert (with_bos.mask.sum(1) - without.mask.sum(1)).tolist() == [1] * len(batch)
    usual = policy.generate(batch, 1, GREEDY)
    policy.template = dataclasses.replace(policy.template, bos_at_inference=False)
    published = policy.generate(batch, 1, GREEDY)
    first = [rollout.per_token_logps[:, 0, 0] for rollout in (usual, published)]
    assert (first[0] - first[1]).abs().max() > 1e-6
    scored = policy.per_token_logps(batch, usual.completions)  # training keeps the BOS token
    torch.testing.assert_close(scored * usual.completions.mask, usual.per_token_logps, atol=1e-4, rtol=1e-4)
