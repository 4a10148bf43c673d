"""Both stages in bfloat16 under autocast, also with gradient checkpointing."""

from __future__ import annotations

import math

import pytest
import torch

from affectgpt_r1.rewards.format import FormatReward
from helpers.recorded import letters
from helpers.runs import checkpoint_of, logged_steps

LORA = "model.lora={r: 4, alpha: 8, dropout: 0.1, target_modules: [q_proj, v_proj]}"
MIXED = ("trainer.precision=bf16-mixed", "logger=csv")


def _logged(folder):
    rows = [row for row in logged_steps(folder) if row["train/loss"]]
    return [float(row["train/loss"]) for row in rows], [float(row["train/grad_norm"]) for row in rows]


@pytest.mark.parametrize("options", [(), ("model.gradient_checkpointing=true", LORA)])
def test_sft_in_bfloat16(run_stage, tmp_path, options):
    single = run_stage("sft", tmp_path / "single", 2, "logger=csv", *options)
    mixed = run_stage("sft", tmp_path / "mixed", 2, *MIXED, *options)
    (expected, _), (losses, norms) = _logged(single), _logged(mixed)
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses != expected
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)
    for name, tensor in checkpoint_of(mixed)["state_dict"].items():
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_grpo_in_bfloat16(run_stage, sft_run, start, tmp_path, monkeypatch, checkpointing):
    monkeypatch.setattr(FormatReward, "__call__", letters)
    options = (
        "stage.beta=0.04",
        "stage.num_generations=4",
        "prompt.max_completion_length=12",
        "optim.optimizer.lr=0.1",
    )
    folder = run_stage(
        *("grpo", tmp_path / "mixed", 2, start, *MIXED, *options),
        *(f"model.gradient_checkpointing={checkpointing}", "model.share_prefix=true"),
    )
    losses, norms = _logged(folder)
    assert all(map(math.isfinite, losses))
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)
    before, after = (checkpoint_of(run)["state_dict"] for run in (sft_run, folder))
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
