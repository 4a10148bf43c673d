"""A policy whose completions share their prompt: against transformers, repeated prompts, and every kind of update."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from affectgpt_r1.engine.prefix_cache import is_valid
from affectgpt_r1.engine.reference import entropy_from_logits, selective_log_softmax
from affectgpt_r1.types import Sampling, TokenBatch

fast = pytest.importorskip("affectgpt_r1.engine.fast", reason="only the fast engine shares prompts")

MIXED = (("video", "audio", "text"), ("video", "text"), ("audio",), ("text",))
SAMPLING = Sampling(max_completion_length=12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(policy, batch, completions, prefix_cache=None) -> dict[str, torch.Tensor]:
    weights = torch.randn(completions.ids.shape, generator=generator(2)) * completions.mask
    policy.zero_grad()
    scores = policy.logps_and_entropies(batch, completions, entropy_gradient=True, prefix_cache=prefix_cache)
    ((scores.per_token_logps + 0.1 * scores.entropies) * weights).mean().backward()
    return {name: weight.grad.clone() for name, weight in policy.trainable_parameters().items()}


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert set(first) == set(second)
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], atol=tolerance, rtol=1e-4, msg=name)


@pytest.fixture
def grouped_query_policy(make_policy, tiny_config):
    """Four query heads over two key heads."""
    return make_policy(language_model={**tiny_config["language_model"], "num_key_value_heads": 2})


@pytest.fixture(params=["plain", "grouped"])
def any_policy(request, make_policy, grouped_query_policy):
    return make_policy() if request.param == "plain" else grouped_query_policy


def test_greedy_decoding_is_that_of_transformers(any_policy, make_batch):
    policy = any_policy.eval()
    batch = policy.with_features(make_batch(modalities=MIXED))
    ours = policy.generate(batch, 2, dataclasses.replace(SAMPLING, temperature=0.0)).completions
    prompts = policy.embed_prompts(batch)
    assert len(set(prompts.mask.sum(1).tolist())) == 4
    theirs = policy.language_model.generate(
        inputs_embeds=prompts.embeds,
        attention_mask=prompts.mask,
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=[policy.turn_ids[0], policy.tokenizer.eos_token_id],
        pad_token_id=policy.tokenizer.pad_token_id,
        suppress_tokens=list(policy.media_ids.values()),
    )
    length = ours.ids.shape[-1]
    for row in range(2):
        assert torch.equal(ours.ids[:, row], theirs[:, :length])


@pytest.mark.parametrize("lengths", [[1, 1, 1, 1], [6, 6, 6, 6], [1, 6, 3, 2]])
def test_sharing_changes_nothing_with_grouped_query_heads(grouped_query_policy, make_batch, lengths):
    policy = grouped_query_policy
    batch = policy.with_features(make_batch(modalities=MIXED))
    mask = (torch.arange(6) < torch.tensor(lengths).view(4, 1, 1)).float().expand(4, 3, 6)
    completions = TokenBatch(torch.randint(7, 380, (4, 3, 6), generator=generator(9)), mask)
    results = []
    for policy.engine.share_prefix in (True, False):
        results.append((policy.per_token_logps(batch, completions).detach(), gradients(policy, batch, completions)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    assert_close(results[0][1], results[1][1])


def test_a_completion_left_out_by_its_mask(tiny_policy, make_batch, completions):
    mask = completions.mask.clone()
    mask[1, 0] = 0.0
    masked = tiny_policy.logps_and_entropies(make_batch(), TokenBatch(completions.ids, mask))
    full = tiny_policy.logps_and_entropies(make_batch(), completions)
    torch.testing.assert_close(masked.per_token_logps, full.per_token_logps * mask, atol=1e-5, rtol=0)


@pytest.mark.parametrize("modalities", [MIXED, (("video", "audio", "text"),) * 4])
def test_the_prefix_cache_gives_the_same_update(policy, make_batch, modalities):
    batch = policy.train().with_features(make_batch(modalities=modalities))
    rollout = policy.generate(batch, 3, SAMPLING, generator())
    assert rollout.prefix_cache.prefill is not None
    kept = gradients(policy, dataclasses.replace(batch, unreadable=()), rollout.completions, rollout.prefix_cache)
    assert rollout.prefix_cache.prefill is None
    assert_close(kept, gradients(policy, batch, rollout.completions, rollout.prefix_cache))


def test_dropout_in_frozen_encoders_does_not_keep_the_prefix_cache_from_being_used(tiny_policy, make_batch):
    dropouts = [one for one in tiny_policy.encoders.modules() if isinstance(one, nn.Dropout)]
    assert dropouts
    for dropout in dropouts:
        dropout.p = 0.1
    batch = tiny_policy.train().with_features(make_batch())
    rollout = tiny_policy.generate(batch, 3, SAMPLING, generator())
    kept = gradients(tiny_policy, batch, rollout.completions, rollout.prefix_cache)
    assert rollout.prefix_cache.prefill is None
    assert_close(kept, gradients(tiny_policy, batch, rollout.completions))


@pytest.mark.parametrize("fused", [True, False])
def test_a_prefix_cache_from_before_an_optimizer_step_is_not_used(policy, make_batch, fused):
    batch = policy.train().with_features(make_batch())
    weights = policy.trainable_parameters().values()
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=fused)
    rollout = policy.generate(batch, 3, SAMPLING, generator())
    assert is_valid(rollout.prefix_cache, batch, weights)
    policy.per_token_logps(batch, rollout.completions).sum().backward()
    optimizer.step()
    assert not is_valid(rollout.prefix_cache, batch, weights)


def test_a_prefix_cache_of_other_weights_or_clips_is_not_used(make_policy, make_batch):
    policy, batch = make_policy().train(), make_batch()
    rollout = policy.generate(batch, 3, SAMPLING, generator())
    with torch.no_grad():
        for weight in policy.trainable_parameters().values():
            weight.mul_(1.1)
    changed = policy.per_token_logps(batch, rollout.completions, prefix_cache=rollout.prefix_cache)
    torch.testing.assert_close(changed, policy.per_token_logps(batch, rollout.completions), atol=0, rtol=0)
    negative = dataclasses.replace(batch, frames=255 - batch.frames)
    cache = policy.generate(batch, 3, SAMPLING, generator()).prefix_cache
    fresh = policy.per_token_logps(negative, rollout.completions, prefix_cache=cache)
    torch.testing.assert_close(fresh, policy.per_token_logps(negative, rollout.completions), atol=0, rtol=0)


def test_there_is_no_prefix_cache_where_an_update_would_differ(make_policy, make_lora_policy, make_batch):
    batch = make_batch()
    dropping, querying = make_lora_policy(dropout=0.5), make_policy(fusion="qformer")
    repeating, evaluated = make_policy(share_prefix=False), make_policy()
    for policy in (dropping.train(), querying.train(), repeating.train(), evaluated.eval()):
        assert policy.generate(batch, 2, SAMPLING, generator()).prefix_cache is None


@pytest.mark.parametrize("share_prefix", [True, False])
def test_gradient_checkpointing_changes_nothing(make_policy, make_batch, completions, share_prefix):
    policy = make_policy(share_prefix=share_prefix).train()
    batch = policy.with_features(make_batch(modalities=MIXED))
    drawn, expected = policy.generate(batch, 2, SAMPLING, generator()), gradients(policy, batch, completions)
    policy.language_model.gradient_checkpointing_enable()
    again = policy.generate(batch, 2, SAMPLING, generator())
    assert torch.equal(again.completions.ids, drawn.completions.ids)
    assert_close(gradients(policy, batch, again.completions), gradients(policy, batch, drawn.completions))
    assert_close(gradients(policy, batch, completions), expected)


def test_a_stop_string_ends_a_completion_and_stays_in_it(make_policy, make_batch):
    policy, batch = make_policy(), make_batch()
    free = policy.generate(batch, 4, SAMPLING, generator())
    stop = next(text[3:5] for group in free.texts for text in group if len(text) > 6 and text[3:5].isascii())
    stopped = policy.generate(batch, 4, dataclasses.replace(SAMPLING, stop_strings=(stop,)), generator())
    ended = 0
    for clip, group in enumerate(free.texts):
        for row, text in enumerate(group):
            if stop in text:
                ended += 1
                assert stop in stopped.texts[clip][row]
                assert text.startswith(stopped.texts[clip][row])
                assert not stopped.truncated[clip, row] or stopped.texts[clip][row] == text
            else:
                assert stopped.texts[clip][row] == text
    assert ended >= 1


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_that_is_not_plain(tiny_policy, bias):
    head = tiny_policy.language_model.lm_head
    torch.manual_seed(0)
    tiny_policy.language_model.lm_head = nn.Sequential(nn.Linear(128, head.out_features, bias=bias))
    states = torch.randn(300, 128, requires_grad=True)
    ids = torch.randint(head.out_features, (300,))
    scores = fast.head_logps(tiny_policy.language_model, states, ids, temperature=0.7, entropy=True)
    logits = tiny_policy.language_model.lm_head(states) / 0.7
    torch.testing.assert_close(scores.logps, selective_log_softmax(logits, ids), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.entropies, entropy_from_logits(logits), atol=1e-5, rtol=0)
    (mine,) = torch.autograd.grad(scores.logps.sum(), states)
    (expected,) = torch.autograd.grad(selective_log_softmax(logits, ids).sum(), states)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)
