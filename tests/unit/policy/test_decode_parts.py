"""Answers of a batch that is decoded in parts, since a GPU's memory takes no more at once."""

from __future__ import annotations

import logging

import pytest
import torch

from affectgpt_r1.engine import decode_parts
from affectgpt_r1.policy import policy as module
from affectgpt_r1.types import Sampling

GREEDY = Sampling(temperature=0.0, max_completion_length=14)


def assert_same(parted, whole):
    assert parted.texts == whole.texts
    assert torch.equal(parted.completions.ids, whole.completions.ids)
    assert torch.equal(parted.truncated, whole.truncated)
    torch.testing.assert_close(parted.per_token_logps, whole.per_token_logps, rtol=0, atol=1e-5)


def test_parts_give_the_answers_of_the_whole(policy, make_batch, monkeypatch):
    batch = make_batch()
    whole = policy.generate(batch, 1, GREEDY)
    monkeypatch.setattr(module, "prompts_at_once", lambda *_: 3)
    assert_same(policy.generate(batch, 1, GREEDY), whole)


def test_half_as_many_where_memory_runs_out(tiny_policy, make_batch, monkeypatch, caplog):
    batch, asked, generate = make_batch(), [], tiny_policy.engine.generate
    whole = tiny_policy.generate(batch, 1, GREEDY)

    def out_of_memory(prefill, *more, **options):
        asked.append(len(prefill.states))
        if asked[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(prefill, *more, **options)

    monkeypatch.setattr(tiny_policy.engine, "generate", out_of_memory)
    with caplog.at_level(logging.WARNING):
        assert_same(tiny_policy.generate(batch, 1, GREEDY), whole)
    assert asked == [4, 2, 1, 1, 1, 1]
    assert "CUDA out of memory; answering 2 clips at once instead of 4" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):
        tiny_policy.generate(batch, 4, GREEDY)  # a group is one rollout


def test_parts_are_equal_and_fit(tiny_policy, monkeypatch):
    model = tiny_policy.language_model
    config = model.config
    one = decode_parts.prompt_bytes(model, 30, 10)
    cached = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * (config.hidden_size // config.num_attention_heads)
        * 4
    )
    layer = 4 * (8 * config.hidden_size + 4 * config.intermediate_size)
    assert one == cached * 70 + 30 * layer + 16 * config.vocab_size
    prompts = module.EmbeddedPrompts(torch.empty(10, 30, 1, device="meta"), torch.ones(10, 30, device="meta"), None)
    assert decode_parts.prompts_at_once(model, prompts, 10) == 10  # not on CUDA
    monkeypatch.setattr(decode_parts, "free_bytes", lambda device: 4.5 * one / 0.9)
    cuda = prompts._replace(embeds=type("OnCUDA", (), {"device": torch.device("cuda"), "__len__": lambda _: 10})())
    assert decode_parts.prompts_at_once(model, cuda, 10) == 4  # 4, 4 and 2
    monkeypatch.setattr(decode_parts, "free_bytes", lambda device: 0)
    assert decode_parts.prompts_at_once(model, cuda, 10) == 1
