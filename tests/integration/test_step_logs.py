"""What a GRPO run logs per step: TRL's names, the phases' times; and the sanity checks that stop it."""

from __future__ import annotations

import math

import pytest
import torch

from affectgpt_r1.errors import ConfigError, TrainingError
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.types import StageOutput
from helpers.runs import logged_steps

OPTIONS = ("logger=csv", "init_from=null", "stage.num_generations=2", "stage.beta=0.04", "stage.num_iterations=2")
PHASES = {"encoders", "prefill", "decode", "reward", "reference", "forward", "backward", "optimizer"}


def test_phases_make_up_the_step(run_stage, tmp_path):
    rows = [row for row in logged_steps(run_stage("grpo", tmp_path, 4, *OPTIONS)) if row.get("system/time/step")]
    assert len(rows) == 4
    times = [{name: float(row[f"system/time/{name}"] or 0) for name in PHASES} for row in rows]
    for row, seconds in zip(rows, times, strict=True):
        assert sum(seconds.values()) <= float(row["system/time/step"])
        assert min(seconds["forward"], seconds["backward"], seconds["optimizer"]) > 0
        assert float(row["train/grad_norm"]) >= 0
        assert float(row["system/peak_memory_mib"]) > 100
        assert float(row["train/tokens_per_second"]) > 0
    assert [seconds["decode"] > 0 for seconds in times] == [True, False, True, False]
    generating = times[0]
    assert sum(generating.values()) > 0.7 * float(rows[0]["system/time/step"])


def test_a_loss_of_nan_stops_the_run(run_stage, tmp_path, monkeypatch):
    plain = GRPOStage.training_step

    def diverged(stage, policy, batch, *, seed):
        output = plain(stage, policy, batch, seed=seed)
        return StageOutput(output.loss * math.nan, output.logs, output.records)

    monkeypatch.setattr(GRPOStage, "training_step", diverged)
    with pytest.raises(TrainingError, match=r"Step 0: loss = nan.*nonfinite_step_000000\.jsonl"):
        run_stage("grpo", tmp_path, 4, *OPTIONS)
    assert (tmp_path / "nonfinite_step_000000.jsonl").read_text("utf-8").count("\n") == 4


def test_a_loss_that_depends_on_no_weight_stops_the_run(run_stage, tmp_path, monkeypatch):
    unused = torch.zeros((), requires_grad=True)

    def detached(stage, policy, batch, *, seed):
        return StageOutput(unused * 1.0, {"loss": torch.zeros(())})

    monkeypatch.setattr(GRPOStage, "training_step", detached)
    with pytest.raises(ConfigError, match="stage=GRPOStage: the loss gave no weight a gradient"):
        run_stage("grpo", tmp_path, 4, *OPTIONS)


def test_phases_are_not_timed_where_that_is_off(run_stage, tmp_path):
    (*_, row) = logged_steps(run_stage("grpo", tmp_path, 2, *OPTIONS, "callbacks.step_timer.phases=false"))
    assert {"system/time/step", "system/peak_memory_mib", "train/tokens_per_second"} <= row.keys()
    assert [name for name in row if name.startswith("system/time/")] == ["system/time/step"]
