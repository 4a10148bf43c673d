"""Runs that are resumed with other settings, in a folder that has moved, or against what they were told."""

from __future__ import annotations

import json
import logging
import re
import shutil

import pytest
import torch

from affectgpt_r1.errors import CheckpointError, ConfigError, TrainingError
from affectgpt_r1.training.optim import linear_schedule
from helpers.runs import checkpoint_of, tracked_runs

SFT = ("trainer.val_check_interval=2", "optim.scheduler.warmup_steps=1")
GRPO = ("stage.num_generations=2", "stage.num_iterations=2", "prompt.max_completion_length=6", "data.batch_size=1")


def record(folder):
    return json.loads((folder / "run.json").read_text("utf-8"))


def rate(step, lr, **schedule):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    return lr * linear_schedule(optimizer, **schedule).lr_lambdas[0](step)


def test_a_moved_run_takes_up_new_settings_and_keeps_its_totals(run_stage, workspace, tmp_path, caplog):
    options = (*SFT, "logger=mlflow", "experiment_name=changed")
    run_stage("sft", tmp_path / "old", 2, *options, "optim.optimizer.lr=1e-3")
    before = record(tmp_path / "old")
    assert (before["resumed_at"], before["config_changes"]) == ([], [])
    folder = tmp_path / "new"
    shutil.move(tmp_path / "old", folder)
    changes = ("optim.optimizer.lr=1e-5", "optim.weight_decay=0.01", "trainer.gradient_clip_val=0.5")
    with caplog.at_level(logging.INFO):
        run_stage("sft", folder, 4, *options, *changes, "ckpt_path=last")
    last, after = checkpoint_of(folder), record(folder)
    (groups,) = [states["param_groups"] for states in last["optimizer_states"]]
    assert {group["lr"] for group in groups} == {rate(4, 1e-5, warmup_steps=1, total_steps=20)}
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    assert last["config"]["optim"]["optimizer"]["lr"] == 1e-5
    assert "Resumed at step 2 with optim.optimizer.lr 0.001 -> 1e-05" in caplog.messages
    keys = ["optim.optimizer.lr", "optim.weight_decay", "trainer.gradient_clip_val", "trainer.max_steps"]
    assert sorted(change["key"] for change in after["config_changes"]) == keys
    assert (after["resumed_at"], after["steps"]) == ([2], 4)
    totals = next(state for key, state in last["callbacks"].items() if key == "RunTotals")
    assert after["fit_seconds"] >= totals["seconds"]["fit_seconds"] > 0.8 * before["fit_seconds"]
    assert after["peak_memory_mib"] >= before["peak_memory_mib"]
    assert after["best"] >= before["best"]
    _, (run,) = tracked_runs(workspace / "outputs", "changed")
    assert "step 2: optim.optimizer.lr 0.001 -> 1e-05" in run.data.tags["affectgpt.config_changes"]
    # Without a change the rates are left as they are; the history stays.
    run_stage("sft", folder, 5, *options, *changes, "ckpt_path=last")
    assert [change["step"] for change in checkpoint_of(folder)["config_changes"]] == [2, 2, 2, 2, 4]
    assert record(folder)["resumed_at"] == [2, 4]


def test_what_cannot_change_is_refused_and_nothing_is_lost(run_stage, workspace, tmp_path):
    folder = run_stage("sft", tmp_path / "run", 2, *SFT)
    kept = {path: path.read_bytes() for path in folder.rglob("*.*") if path.suffix in (".ckpt", ".json")}
    for override, message in (
        ("data.batch_size=3", r"data\.batch_size=3 .*has data\.batch_size=2"),
        ("data.modalities=[video,text]", r"data\.modalities"),
        ("trainer.max_steps=1", r"trainer\.max_steps=1: .*is at 2 already"),
        ("stage.monitor=val/loss", r"stage\.monitor=val/loss"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_stage("sft", folder, 4, *SFT, override, "ckpt_path=last")
    root = shutil.copytree(workspace / "data", tmp_path / "data")
    labels = root / "track2_train_mercaptionplus.csv"
    labels.write_text("\n".join(labels.read_text("utf-8").splitlines()[:-1]) + "\n", "utf-8")
    with pytest.raises(ConfigError, match=r"^data\.train_labels=track2_train_mercaptionplus\.csv: not the content"):
        run_stage("sft", folder, 4, *SFT, f"data.root={root}", "ckpt_path=last")
    assert kept == {path: path.read_bytes() for path in kept}


def test_beta_is_raised_on_the_weights_that_grpo_started_from(run_stage, sft_run, start, tmp_path):
    another = f"init_from={run_stage('sft', tmp_path / 'other', 1)}/checkpoints/last.ckpt"
    folder = run_stage("grpo", tmp_path / "grpo", 1, start, *GRPO)
    left = checkpoint_of(folder)
    assert left["reference"] == {}
    assert left["rollout_buffer"]["visits"] == 1  # in mid-buffer, without log-probs of a reference
    with pytest.raises(CheckpointError, match=r"init_from=.*other.*started from other weights, those of init_from="):
        run_stage("grpo", folder, 3, another, *GRPO, "stage.beta=0.04", "ckpt_path=last")
    with pytest.raises(CheckpointError, match=r"stage\.beta: the KL term needs the weights .*init_from="):
        run_stage("grpo", folder, 3, "init_from=null", *GRPO, "stage.beta=0.04", "ckpt_path=last")
    run_stage("grpo", folder, 3, start, *GRPO, "stage.beta=0.04", "ckpt_path=last")
    resumed = checkpoint_of(folder)
    weights = checkpoint_of(sft_run)["state_dict"]
    assert resumed["reference"]
    for name, tensor in resumed["reference"].items():
        assert torch.equal(tensor, weights[f"policy.{name}"]), name
    assert not all(torch.equal(left["state_dict"][name], weights[name]) for name in weights)


def test_the_remedy_of_a_diverged_run_works(run_stage, tmp_path):
    """The last checkpoint is that of a step that has spoilt the weights; the message names the best one."""
    folder = run_stage("sft", tmp_path, 2, *SFT, "optim.optimizer.lr=1e-3")
    best = checkpoint_of(folder, "best")
    options = (*SFT, "callbacks.last_checkpoint.every_n_steps=1")
    with pytest.raises(TrainingError) as raised:
        run_stage("sft", folder, 4, *options, "optim.optimizer.lr=1e30", "ckpt_path=last")
    last = folder / "checkpoints" / "last.ckpt"
    assert f"Lower optim.optimizer.lr, then resume by ckpt_path={last}" in str(raised.value)
    (remedy,) = re.findall(r"ckpt_path=\S+best\.ckpt", str(raised.value))
    assert checkpoint_of(folder)["global_step"] == 3
    run_stage("sft", folder, 4, *options, "optim.optimizer.lr=1e-5", remedy)
    last = checkpoint_of(folder)
    assert last["global_step"] == 4
    for name, tensor in last["state_dict"].items():
        assert (tensor - best["state_dict"][name]).abs().max() < 1e-4, name  # two steps at the low rate
