"""What GRPO scores is the policy that sampled: without dropout, and under the update's numerics."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.types import Sampling

LORA = {"r": 4, "alpha": 8, "dropout": 0.05, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def lengths(*, completions, targets):
    return [float(len(one.text)) for one in completions]


def grpo(**options):
    rewards = WeightedRewards({"length": lengths}, {"length": 1.0})
    sampling = Sampling(max_completion_length=12)
    return GRPOStage(rewards, load_lexicon("bundled"), sampling, **{"num_generations": 4, **options})


def with_attention_dropout(tiny_config):
    return {"language_model": {**tiny_config["language_model"], "attention_dropout": 0.1}}


@pytest.fixture(params=["lora", "attention", "qformer"])
def dropping_policy(request, make_policy, tiny_config):
    """A policy with dropout, in training mode, whose adapters have something to say."""
    changes = {
        "lora": {"lora": LORA},
        "attention": {**with_attention_dropout(tiny_config), "share_prefix": False},
        "qformer": {"fusion": "qformer"},
    }
    policy = make_policy(**changes[request.param])
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
    return policy.train()


def test_a_policy_has_no_distance_to_its_own_copy(dropping_policy, make_batch, caplog):
    batch, stage = make_batch(2), grpo(beta=0.04)
    tokens = dropping_policy.encode_targets(batch)
    with torch.no_grad():
        twice = [dropping_policy.per_token_logps(batch, tokens) for _ in range(2)]
    assert not torch.equal(*twice)  # dropout is on
    with caplog.at_level(logging.INFO):
        stage.prepare(dropping_policy)
    assert "without dropout" in caplog.text
    logs = stage.training_step(dropping_policy, batch, seed=7).logs
    assert float(logs["kl"]) < 1e-12
    assert float(logs["sampling/sampling_logp_difference/max"]) < 1e-4
    assert dropping_policy.disable_dropout() == []


def test_attention_dropout_no_longer_stops_shared_prompts(make_policy, tiny_config, make_batch):
    policy, stage = make_policy(**with_attention_dropout(tiny_config)).train(), grpo()
    stage.prepare(policy)
    assert stage.training_step(policy, make_batch(2), seed=7).loss.isfinite()


def half(policy):
    """The language model in bfloat16, as the 7B model is."""
    policy.language_model.bfloat16()
    return policy.train()


@pytest.mark.parametrize("steps", [{"num_iterations": 2}, {"steps_per_generation": 2}])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_before_a_step_the_ratio_is_one_in_bfloat16(make_policy, make_batch, steps, level):
    """The sampler's own log-probs are a few hundredths off: those would clip tokens before anything was learned."""
    policy, batch = half(make_policy()), make_batch()
    stage = grpo(importance_sampling_level=level, epsilon=1e-3, **steps)
    stage.prepare(policy)
    with torch.autocast("cpu", torch.bfloat16):
        logs = stage.training_step(policy, batch, seed=7).logs
        again = stage.training_step(policy, select_clips(batch, []), seed=7).logs
    for one in (logs, again):
        assert float(one["clip_ratio/region_mean"]) == 0.0
        assert float(one["sampling/sampling_logp_difference/max"]) > 2e-3


def test_old_log_probs_are_the_updates_own_step_by_step(tiny_policy, make_batch):
    policy, batch = tiny_policy.train(), make_batch()
    stage = grpo(steps_per_generation=2, num_iterations=2)
    stage.prepare(policy)
    stage.training_step(policy, batch, seed=7)
    buffer = stage._buffer
    for index in range(2):
        step = buffer.step(index, 2)
        scored = policy.logps_and_entropies(step.batch, step.completions, 1.0).per_token_logps
        torch.testing.assert_close(step.old_per_token_logps, scored, atol=2e-6, rtol=0)
    assert (
        grpo()._generate_and_score(policy, batch, 7).old_per_token_logps is None
    )  # a rollout that is used once needs none


def test_an_older_checkpoints_rollout_is_taken_up_with_a_warning(tiny_policy, make_batch, caplog):
    stage, batch = grpo(num_iterations=2), make_batch(2)
    stage.training_step(tiny_policy, batch, seed=7)
    state = stage.buffer_state()
    del state["buffer"]["old_per_token_logps"]
    resumed = grpo(num_iterations=2)
    resumed.load_buffer_state(state)
    output = resumed.training_step(tiny_policy, select_clips(batch, []), seed=7)
    assert "uses the sampler's" in caplog.text
    expected = stage.training_step(tiny_policy, select_clips(batch, []), seed=7)
    assert output.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    assert dataclasses.asdict(resumed.config) == dataclasses.asdict(stage.config)
