"""Training steps take the weight's gradient from the forward pass where the loss allows it, and the same one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.engine import fast
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling
from helpers.precisions import precision

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
"""Share of the greatest element. In float32 it is the rounding of three optimizer steps, as float64 shows."""


class LetterReward:
    """Differs between random completions."""

    name = "letters"

    def __call__(self, *, completions, targets) -> list[float | None]:
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


def grpo(**options):
    return GRPOStage(
        WeightedRewards({"letters": LetterReward()}, {"letters": 1.0}),
        load_lexicon("bundled"),
        Sampling(max_completion_length=10),
        num_generations=4,
        **options,
    )


def gradients(policy, stage, batch, *, visits):
    """Of the last of some steps; the loss is divided and scaled as by gradient accumulation and mixed precision."""
    stage.prepare(policy)
    policy.train()
    parameters = policy.trainable_parameters()
    optimizer = torch.optim.SGD(parameters.values(), lr=3e-5)
    for visit in range(visits):
        optimizer.zero_grad()
        clips = select_clips(batch, []) if visit else batch
        (stage.training_step(policy, clips, seed=7).loss * 1024 / 3).backward()
        if visit + 1 < visits:
            optimizer.step()
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}


def cast(batch, dtype):
    return dataclasses.replace(batch, features={name: one.to(dtype) for name, one in batch.features.items()})


@pytest.fixture
def policy_in(make_policy):
    """``policy_in(dtype)``: a policy with weights in ``dtype`` whose completions are drawn in single precision."""

    def build(dtype):
        with precision(torch.float32):  # so that weights are drawn alike
            policy, single = make_policy().to(dtype), make_policy().eval()

        def generate(batch, *options):
            with precision(torch.float32):
                return single.generate(cast(batch, torch.float32), *options)

        policy.generate = generate
        return policy

    return build


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("options", "precomputed"),
    [
        ({"loss_type": "grpo", "beta": 0.04}, True),
        ({"loss_type": "dapo", "beta": 0.04, "num_iterations": 3, "mask_truncated_completions": True}, True),
        ({"importance_sampling_level": "sequence"}, False),
        ({"top_entropy_quantile": 0.3}, False),
        ({"entropy_coef": 0.1}, False),
    ],
)
def test_grpo(policy_in, make_policy, make_batch, walks_again, monkeypatch, options, precomputed, dtype):
    visits = options.get("num_iterations", 1)
    batch = cast(make_policy().with_features(make_batch()), dtype)
    with precision(dtype):
        mine = gradients(policy_in(dtype), grpo(**options), batch, visits=visits)
        assert bool(walks_again) is not precomputed
        recomputed = fast.fused_linear_logps
        monkeypatch.setattr(
            fast,
            "fused_linear_logps",
            lambda *args, **kwargs: recomputed(*args, **{**kwargs, "precomputed_grads": None}),
        )
        expected = gradients(policy_in(dtype), grpo(**options), batch, visits=visits)
    assert len(walks_again) >= visits
    assert any(one.any() for one in expected.values())
    for name, one in expected.items():
        assert one.dtype == dtype
        torch.testing.assert_close(mine[name], one, atol=TOLERANCE[dtype] * one.abs().max().item(), rtol=0, msg=name)


def test_sft(tiny_policy, make_batch, walks_again):
    gradients(tiny_policy, SFTStage(), make_batch(), visits=1)
    assert not walks_again
