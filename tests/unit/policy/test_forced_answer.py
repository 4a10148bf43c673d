"""An answer that is forced to open: what is decoded, under which probabilities, and that training refuses it."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.training.completions import parse_rollout
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.optim import OptimizerFactory
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling, TokenBatch

GREEDY = Sampling(temperature=0.0, max_completion_length=6)


@pytest.fixture
def pair(make_policy):
    """The same policy free and forced."""
    free, forced = make_policy(enable_thinking=True), make_policy(enable_thinking=True)
    forced.template = dataclasses.replace(forced.template, force_answer=True)
    forced.prefill_ids = forced.tokenizer.encode(forced.template.prefill, add_special_tokens=False)
    return free, forced


def test_the_completion_reads_as_if_the_model_had_opened_the_answer(pair, make_batch):
    _, forced = pair
    rollout = forced.generate(make_batch(), 2, Sampling(max_completion_length=6), torch.Generator().manual_seed(0))
    assert rollout.completions.ids.shape == (4, 2, 6)
    for text, ids in zip(itertools.chain(*rollout.texts), rollout.completions.ids.flatten(0, 1), strict=True):
        assert text.startswith("<answer>")
        assert forced.tokenizer.decode(ids[:1]) in text[len("<answer>") :] or int(ids[0]) in forced.turn_ids
    assert not forced.enable_thinking
    completions = parse_rollout(
        rollout._replace(texts=[["<answer> sad </answer>"] * 2] * 4),
        list("abcd"),
        enable_thinking=forced.enable_thinking,
    )
    assert all(one.well_formed and one.labels == ("sad",) for one in completions)


def test_probabilities_are_those_after_the_opened_answer(pair, make_batch):
    free, forced = pair
    batch, length = make_batch(), len(forced.prefill_ids)
    assert length == 1  # the tag is one token of the small tokenizer
    rollout = forced.generate(batch, 1, GREEDY)
    opened = torch.tensor(forced.prefill_ids).expand(4, 1, length)
    tokens = rollout.completions
    whole = TokenBatch(torch.cat([opened, tokens.ids], -1), torch.cat([torch.ones(4, 1, length), tokens.mask], -1))
    after = free.per_token_logps(batch, whole)[..., length:]
    torch.testing.assert_close(forced.per_token_logps(batch, tokens), after, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rollout.per_token_logps, after, atol=1e-5, rtol=1e-5)
    assert (free.generate(batch, 1, GREEDY).completions.ids[..., 0] != tokens.ids[..., 0]).any()


def test_training_refuses_a_forced_answer(pair):
    free, forced = pair
    optimizers = OptimizerFactory(torch.optim.SGD, torch.optim.lr_scheduler.ConstantLR, weight_decay=0.0)
    parts = (SFTStage(), load_lexicon("bundled"), optimizers)
    AffectModule(free, *parts, answer_sampling=GREEDY, seed=0)
    with pytest.raises(ConfigError, match=r"prompt\.force_answer is for evaluation"):
        AffectModule(forced, *parts, answer_sampling=GREEDY, seed=0)
