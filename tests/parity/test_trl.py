"""Loss, every gradient, advantages and logged metrics against TRL 1.16 within 1e-6, on rollouts that TRL drew.

The recorded rewards hold ones that do not apply, a completion without any, and a group of equal rewards.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from affectgpt_r1.types import ClipBatch

CLIPS = ClipBatch(
    names=("0", "1", "2", "3"),
    subtitles=("",) * 4,
    labels=(("happy",),) * 4,
    reasons=("",) * 4,
    modalities=(("text",),) * 4,
)
NONE_MORE = dataclasses.replace(CLIPS, names=(), subtitles=(), labels=(), reasons=(), modalities=())
SCALES = {
    "group": {"scale_rewards": "group"},
    "batch": {"scale_rewards": "batch"},
    "none": {"scale_rewards": "none"},
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum"},
}
TRL_SWITCHES = {
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    "mask_truncated_completions": False,
}
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")


@pytest.fixture(scope="module")
def captured(parity):
    """One generation of TRL's for each way of scaling rewards."""
    return {name: parity.capture(**TRL_SWITCHES | switches) for name, switches in SCALES.items()}


def assert_equal_steps(ours, trl):
    assert ours.loss == pytest.approx(trl.loss, abs=1e-6)
    for name, gradient in trl.gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, atol=1e-6, rtol=0)
    compared = set(trl.metrics) - {"entropy_coef"}
    assert compared <= set(ours.metrics)
    for name in compared:
        assert ours.metrics[name] == pytest.approx(trl.metrics[name], abs=1e-6), name


def compare(parity, inputs, steps_per_generation, num_iterations, switches, **options):
    """Every training step of a generation, at weights that move between the steps."""
    steps = (steps_per_generation, num_iterations)
    stage, policy = parity.stage(inputs, steps_per_generation=steps[0], num_iterations=steps[1], **switches, **options)
    largest = 0.0
    for visit in range(stage.schedule.steps):
        parity.move(visit)
        ours = parity.our_step(stage, policy, NONE_MORE if visit else CLIPS)
        size = 16 // steps[0]
        first = visit % steps[0] * size
        trl = parity.trl_step(inputs, slice(first, first + size), steps, **options)
        assert_equal_steps(ours, trl)
        largest = max(largest, max(one.abs().max().item() for one in trl.gradients.values()))
    assert largest > 1e-3  # else nothing was compared


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("loss_type", "level"), [*itertools.product(LOSS_TYPES, ("token", "sequence"))])
def test_loss_gradients_and_figures(parity, captured, loss_type, level, scale):
    for beta, num_iterations in itertools.product((0.0, 0.04), (1, 2)):
        compare(
            parity,
            captured[scale],
            num_iterations,  # with a second pass, two steps to a generation
            num_iterations,
            SCALES[scale],
            loss_type=loss_type,
            importance_sampling_level=level,
            beta=beta,
        )


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0.1, "epsilon_high": 0.28},
        {"delta": 1.3},
        {"loss_type": "cispo", "epsilon_high": 1.1},
        {"beta": 0.04, "use_bias_correction_kl": True},
        {"entropy_coef": 0.05},
        {"top_entropy_quantile": 0.3},
        {"top_entropy_quantile": 0.3, "entropy_coef": 0.05, "beta": 0.04, "loss_type": "bnpo"},
    ],
    ids=str,
)
def test_options(parity, captured, options, level):
    compare(parity, captured["group"], 2, 2, {}, importance_sampling_level=level, **options)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("loss_type", ["grpo", "cispo"])
def test_samples_of_another_program(parity, captured, loss_type, mode):
    """The tokens were drawn under log-probs that differ by 0.3 nats; the weights are those of TRL's generation."""
    low, high = 0.8, 1.3
    inputs = dict(captured["group"])
    old, mask = inputs["sampling_logps"], inputs["completion_mask"]
    noise = 0.3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(8), dtype=old.dtype)
    difference = noise * mask
    ratio = (difference.sum(-1, keepdim=True) if mode.startswith("sequence") else difference).exp()
    outside = (ratio < low) | (ratio > high)
    assert 0 < outside.sum() < outside.numel()
    ratio = ratio.clamp(low, high) if mode.endswith("truncate") else ratio.masked_fill(outside, 0.0)
    inputs |= {"old_logps": old, "sampling_logps": old - noise, "importance_sampling_ratio": ratio}
    names = ("vllm_importance_sampling_mode", "vllm_importance_sampling_clip_min", "vllm_importance_sampling_clip_max")
    switches = dict(zip(names, (mode, low, high), strict=True))
    for steps in (1, 2):
        compare(parity, inputs, steps, steps, switches, loss_type=loss_type, beta=0.04)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("micro_batches", [[0, 1, 2, 3], [0, 1, 2]], ids=["full", "rest"])
def test_accumulated_gradients(parity, captured, loss_type, micro_batches):
    """Four micro-batches of a generation to an optimizer step, or the three that an epoch leaves."""
    inputs, options, accumulated = captured["group"], {"loss_type": loss_type, "beta": 0.04}, len(micro_batches)
    stage, policy = parity.stage(inputs, steps_per_generation=4, **options)
    stage.accumulate_grad_batches = 4  # no optimizer step within the generation: neither side needs old log-probs
    parity.move(0)
    ours = [parity.our_step(stage, policy, NONE_MORE if number else CLIPS).gradients for number in micro_batches]
    trl = [
        parity.trl_step(inputs, slice(4 * number, 4 * number + 4), (4, 1), accumulated, **options).gradients
        for number in micro_batches
    ]
    for name in trl[0]:
        expected = sum(one[name] for one in trl)
        # The module divides by the micro-batches: each has num_items 1.
        torch.testing.assert_close(sum(one[name] for one in ours) / accumulated, expected, atol=1e-6, rtol=0)
    assert max(one.abs().max().item() for one in trl[0].values()) > 1e-3


@pytest.mark.parametrize("scale", SCALES)
def test_advantages(parity, captured, scale):
    stage, policy = parity.stage(captured[scale], **SCALES[scale])
    records = stage.training_step(policy, CLIPS, seed=0).records
    advantages = torch.tensor([record.advantage for record in records])
    torch.testing.assert_close(advantages, captured[scale]["advantages"], atol=1e-6, rtol=1e-6)
    assert advantages.abs().max() > 0.3


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_truncated_completions_masked(parity, loss_type):
    inputs = parity.capture(**TRL_SWITCHES | {"mask_truncated_completions": True})
    assert 0 < inputs["truncated"].sum() < 16
    compare(parity, inputs, 1, 2, {"mask_truncated_completions": True}, loss_type=loss_type, beta=0.04)


def test_generation_figures(parity):
    inputs = parity.capture(**TRL_SWITCHES)
    trl = {name: values[0] for name, values in parity.trainer._metrics["train"].items()}
    stage, policy = parity.stage(inputs)
    ours = stage.training_step(policy, CLIPS, seed=0).logs
    compared = [name for name in trl if name != "num_tokens"]
    assert {"reward", "reward_std", "frac_reward_zero_std", "rewards/first/mean", "rewards/second/std"} <= set(compared)
    assert {"completions/mean_length", "completions/clipped_ratio", "completions/max_terminated_length"} <= set(
        compared
    )
    for name in compared:
        assert float(ours[name]) == pytest.approx(trl[name], abs=1e-6), name
