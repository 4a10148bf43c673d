"""The stages on a simulated accelerator: the CPU's losses, logs and gradients, and no tensor on the wrong device."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.pretrain_encoders import EncoderStage
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import ClipBatch, Sampling
from helpers.device_checks import LORA, assert_same, assert_same_gradients, assert_same_logs, on_device, step

SAMPLING = Sampling(max_completion_length=6)


class LetterReward:
    """Share of characters that are letters, which random completions differ in."""

    name = "letters"

    def __call__(self, *, completions, targets) -> list[float | None]:
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


@pytest.fixture
def grpo():
    lexicon = load_lexicon("bundled")

    def build(**options: Any) -> GRPOStage:
        parts = {"letters": LetterReward(), "format": FormatReward()}
        sampling = options.pop("sampling", SAMPLING)
        return GRPOStage(
            WeightedRewards(parts, {"letters": 1.0, "format": 0.2}),
            lexicon,
            sampling,
            **{"num_generations": 3, **options},
        )

    return build


@pytest.mark.parametrize("lora", [None, LORA], ids=["full-shared", "lora-repeated"])
def test_sft_steps(device, make_policy, make_batch, lora):
    policy = make_policy(lora=lora, share_prefix=lora is None)
    ours, batch = on_device(policy, device), make_batch(2)
    assert_same_logs(*(step(one, SFTStage(), batch) for one in (ours, policy)))
    assert_same_gradients(ours, policy)


OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"beta": 0.04, "mask_truncated_completions": True, "truncated_leave_baseline": True},
    "bnpo": {"loss_type": "bnpo", "scale_rewards": "batch"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", "delta": 2.0},
    "dapo": {"loss_type": "dapo", "max_resamples": 2, "epsilon_high": 0.28},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, "num_iterations": 2},
    "gspo": {"importance_sampling_level": "sequence", "num_iterations": 2, "steps_per_generation": 2, "beta": 0.1},
    "entropy": {"entropy_coef": 0.01, "top_entropy_quantile": 0.5, "steps_per_generation": 2},
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum", "max_resamples": 1, "num_iterations": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_grpo_steps(device, make_policy, make_batch, grpo, options):
    policy = make_policy(lora=LORA if "beta" in options else None)
    ours, batch = on_device(policy, device), make_batch(2)
    logs = [step(one, (stage := grpo(**options)), batch, stage.schedule.steps) for one in (ours, policy)]
    assert_same_logs(*logs)
    assert_same_gradients(ours, policy, 1e-3)


def test_grpo_with_repeated_prompts(device, make_policy, make_batch, grpo):
    policy = make_policy(share_prefix=False)
    ours, batch = on_device(policy, device), make_batch(2)
    assert_same_logs(*(step(one, grpo(beta=0.04), batch) for one in (ours, policy)))
    assert_same_gradients(ours, policy)


def test_the_rollout_is_continued_from_its_prefill(device, tiny_policy, make_batch, grpo, monkeypatch):
    ours = on_device(tiny_policy, device)
    embedded = []
    full = ours.embed_prompts
    monkeypatch.setattr(ours, "embed_prompts", lambda *given, **more: embedded.append(1) or full(*given, **more))
    step(ours, grpo(), make_batch(2))
    assert len(embedded) == 1


def test_a_buffer_from_a_checkpoint_goes_on(device, tiny_policy, make_batch, grpo, tmp_path):
    ours, batch = on_device(tiny_policy, device), batch_to_device(make_batch(2), device)
    options = {"steps_per_generation": 2, "num_iterations": 2, "beta": 0.04}
    stage, resumed = grpo(**options), grpo(**options)
    stage.prepare(ours)
    ours.train()
    stage.training_step(ours, batch, seed=3)
    torch.save({"buffer": stage.buffer_state(), "reference": ours.reference_state()}, tmp_path / "state.ckpt")
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)
    assert state["buffer"]["buffer"]["advantages"].device.type == "cpu"
    resumed.load_buffer_state(state["buffer"])
    ours.load_reference_state(state["reference"])
    assert all(one.device == device for one in ours.reference_state().values())
    nothing = ClipBatch((), (), (), (), ())
    first, second = (one.training_step(ours, nothing, seed=4).loss for one in (stage, resumed))
    assert first.equal(second)


def test_towers_train(device, tiny_policy, make_batch):
    cues = {name: torch.tensor([0.1, -0.5]) for name in ("smile", "pitch")}
    ours, batch = on_device(tiny_policy, device), make_batch(2, cues=cues)
    stage = EncoderStage(["smile"], ["pitch"], 64, 64)
    stages = copy.deepcopy(stage).to(device), stage
    assert_same_logs(*(step(one, by, batch) for one, by in zip((ours, tiny_policy), stages, strict=True)))
    assert_same_gradients(ours, tiny_policy)
    assert_same(stages[0].video_head.weight.grad, stage.video_head.weight.grad)
    assert_same_logs(
        [stages[0].validation_step(ours, batch_to_device(batch, device))], [stage.validation_step(tiny_policy, batch)]
    )


def test_half_precision_weights(device, make_policy, make_batch, grpo):
    ours, batch = make_policy().to(device).to(torch.bfloat16), make_batch(2)
    (logs,) = step(ours, grpo(beta=0.04), batch)
    assert all(math.isfinite(float(value)) for value in logs.values())
    assert float(logs["sampling/sampling_logp_difference/max"]) < 0.2
    assert all(one.grad.dtype == torch.bfloat16 for one in ours.trainable_parameters().values() if one.grad is not None)
