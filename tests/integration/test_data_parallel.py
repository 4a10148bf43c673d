"""Two processes on gloo through the Trainer and the training command: one run, and the metrics of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.rewards.format import FormatReward
from helpers.forked import fork_second_process, run_command
from helpers.processes import TWO, held_port
from helpers.recorded import PLAIN, letters
from helpers.runs import assert_equal_weights, checkpoint_of, logged_steps, tracked_runs

TEST_CLIPS = [f"synthetic_test_{number:05d}" for number in range(4)]


def metrics(folder: Path) -> dict[str, list[float]]:
    """Return logged validation and training metrics, step by step, without times."""
    rows = logged_steps(folder)
    wanted = ["train/loss", "train/grad_norm", *(name for name in rows[0] if name.startswith("val/"))]
    return {name: [float(row[name]) for row in rows if row[name]] for name in wanted}


def answered(folder: Path) -> list[str]:
    """Return the test clips that a run has answered."""
    return [json.loads(line)["name"] for line in (folder / "test" / "answers.jsonl").read_text().splitlines()]


def assert_equal_gradients(alone: Path, together: Path, num_steps: int) -> None:
    for step in range(num_steps):
        expected = torch.load(alone / f"gradients_{step}_0.pt")
        norm = torch.stack([one.norm() for one in expected.values()]).norm().item()
        assert norm > 1e-2
        for rank in (0, 1):
            found = torch.load(together / f"gradients_{step}_{rank}.pt")
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                assert (found[name] - gradient).abs().max().item() < 1e-6 * max(1.0, norm), (step, rank, name)


def assert_equal_metrics(alone: Path, together: Path) -> None:
    expected, found = metrics(alone), metrics(together)
    assert {"val/f1", "val/answers/words_per_answer"} <= expected.keys() == found.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-5, rel=1e-5, nan_ok=True), name


def test_sft_on_two_processes_is_that_of_one(run_stage, run_on_two, kept_gradients, tmp_path):
    """Unequal targets, three validation clips for two processes, one clip a batch: two batches and one."""
    alone = run_stage("sft", tmp_path / "alone", 4, *PLAIN, "data.batch_size=4")
    together = run_on_two("sft", tmp_path / "ddp", 4, *PLAIN, "data.batch_size=2", "trainer=ddp")
    assert_equal_gradients(alone, together, 4)
    assert_equal_metrics(alone, together)


def test_grpo_on_two_processes_is_that_of_one(run_stage, run_on_two, kept_gradients, rollout_by_name, start, tmp_path):
    """With sharded weights and a supervised loss mixed in; test_accumulation.py takes DDP, and GRPO alone."""
    options = (*PLAIN, start, "stage.beta=0.04", "stage.num_generations=4", "stage.loss_type=dapo", "stage.mu.peak=0.5")
    alone = run_stage("grpo", tmp_path / "alone", 2, *options, "data.batch_size=4")
    together = run_on_two("grpo", tmp_path / "fsdp", 2, *options, "data.batch_size=2", "trainer=fsdp")
    assert_equal_gradients(alone, together, 2)
    assert_equal_metrics(alone, together)


def test_grpo_on_two_processes_resumes_in_mid_buffer(run_stage, run_on_two, start, tmp_path, monkeypatch):
    """Each process has a buffer, accumulated gradients and random states of its own, of which one alone has no use."""
    monkeypatch.setattr(FormatReward, "__call__", letters)
    options = (
        *(start, "logger=none", "data.batch_size=1", "stage.steps_per_generation=2", "stage.num_iterations=2"),
        *("stage.num_generations=2", "trainer.accumulate_grad_batches=3", "prompt.max_completion_length=8"),
        *("trainer.val_check_interval=5", "stage.beta=0.04"),
    )
    uncut = checkpoint_of(run_on_two("grpo", tmp_path / "uncut", 4, *options))
    run_on_two("grpo", tmp_path / "cut", 1, *options)
    left = checkpoint_of(tmp_path / "cut")
    (other,) = left["other_processes"]
    assert left["rollout_buffer"]["visits"] == other["rollout_buffer"]["visits"] == 3
    assert left["rollout_buffer"]["buffer"]["batch"]["names"] != other["rollout_buffer"]["buffer"]["batch"]["names"]
    with pytest.raises(CheckpointError, match="written by 2 processes, here are 1"):
        run_stage("grpo", tmp_path / "cut", 4, *options, "ckpt_path=last")
    run_on_two("grpo", tmp_path / "cut", 4, *options, "ckpt_path=last")
    resumed = checkpoint_of(tmp_path / "cut")
    assert resumed["position"] == uncut["position"]
    assert_equal_weights(uncut, resumed)


def test_a_sharded_run_resumes(run_on_two, tmp_path):
    """In mid-epoch, with gradients accumulated: weights and moments are sharded again, and gathered to answer."""
    options = ("trainer=fsdp", "logger=none", "data.batch_size=1", "trainer.accumulate_grad_batches=2")
    options = (*options, "trainer.val_check_interval=3", "callbacks.last_checkpoint.every_n_steps=100")
    uncut = checkpoint_of(run_on_two("sft", tmp_path / "uncut", 4, *options))
    run_on_two("sft", tmp_path / "cut", 1, *options)
    assert checkpoint_of(tmp_path / "cut")["position"] == [0, 2]
    run_on_two("sft", tmp_path / "cut", 4, *options, "ckpt_path=last", "evaluate_after=true")
    resumed = checkpoint_of(tmp_path / "cut")
    assert_equal_weights(uncut, resumed)
    assert answered(tmp_path / "cut") == TEST_CLIPS


@pytest.fixture
def command(stage_overrides, workspace):
    """Run ``train`` as a user does; Lightning starts the second process, forked or in an interpreter of its own."""

    def run(name: str, *overrides: str, is_forked: bool = True) -> subprocess.CompletedProcess[str]:
        given = (f"experiment_name={name}", "logger=mlflow", "trainer=ddp", *TWO, *overrides)
        composed = stage_overrides("sft", workspace / "outputs" / name / "sft", 2, *given)
        with held_port() as port:

            def prepare() -> None:
                os.environ["MASTER_PORT"] = str(port)
                if is_forked:
                    fork_second_process()

            return run_command("train", *composed, prepare=prepare)

    return run


def test_the_command_leaves_one_finished_run(command, workspace):
    done = command("two", "trainer.val_check_interval=1", "data.eval_batch_size=1", "evaluate_after=true")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("sft 2/2  loss") == 2  # of the step and of its validation, by the first process alone
    assert done.stdout.count("sft, seed 1: 2 steps, in ") == 1
    client, (run,) = tracked_runs(workspace / "outputs", "two")
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "val/f1", "train/unreadable_clips"):
        history = client.get_metric_history(run.info.run_id, name)
        assert len({logged.step for logged in history}) == len(history), name
    assert len(client.get_metric_history(run.info.run_id, "val/f1")) == 2
    folder = workspace / "outputs" / "two" / "sft"
    assert answered(folder) == TEST_CLIPS
    assert json.loads((folder / "run.json").read_text())["steps"] == 2
    assert sorted(file.name for file in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.slow  # beyond test_a_sharded_run_resumes, only that Lightning starts a second interpreter
def test_the_command_shards_weights(command, workspace):
    done = command("sharded", "trainer=fsdp", "evaluate_after=true", is_forked=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert answered(workspace / "outputs" / "sharded" / "sft") == TEST_CLIPS


def test_a_process_that_fails_ends_the_other(command, workspace, tmp_path):
    """The second process draws an unreadable clip; the first waits for its gradients."""
    data = tmp_path / "data"
    shutil.copytree(workspace / "data", data)
    second = np.random.default_rng((1, 0)).permutation(6)[1]
    (data / "audio" / f"synthetic_caption_{second:05d}.wav").write_bytes(b"")
    limits = (
        "data.max_unreadable_fraction=0.01",
        "callbacks.unreadable_clips.judge_after=1",
        "data.feature_store=null",
    )
    done = command("fails", f"paths.data={data}", *limits)
    assert done.returncode == 2, done.stderr[-4000:]
    assert f"synthetic_caption_{second:05d}.wav" in done.stderr
    _, (run,) = tracked_runs(workspace / "outputs", "fails")
    assert run.info.status == "FAILED"
