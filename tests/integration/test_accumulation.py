"""Optimizer steps of accumulated micro-batches: gradients and logs of one large batch, in one process and in two."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from affectgpt_r1.callbacks.checkpoints import LastCheckpoint
from affectgpt_r1.callbacks.exact_resume import ExactResume
from affectgpt_r1.callbacks.step_timer import PhaseTimer
from helpers.recorded import PLAIN
from helpers.runs import assert_equal_weights, checkpoint_of, logged_steps

NOT_COMPARED = ("system/", "train/tokens_per_second", "train/learning_rate")


def micro_batches(size: int, number: int) -> tuple[str, ...]:
    """Return overrides for ``number`` batches of ``size`` clips per optimizer step, in epochs without a validation."""
    return (f"data.batch_size={size}", f"trainer.accumulate_grad_batches={number}")


def rows(folder: Path) -> list[dict[str, float]]:
    """Return what was logged of each optimizer step."""
    steps = [row for row in logged_steps(folder) if row["train/loss"]]
    return [
        {name: float(value) for name, value in row.items() if name.startswith(("train/", "system/time/")) and value}
        for row in steps
    ]


def compared(row: dict[str, float]) -> dict[str, float]:
    """Drop times, and what describes a single micro-batch's answers."""
    return {
        name: value for name, value in row.items() if not name.startswith((*NOT_COMPARED, "train/answers/answer_e"))
    }


def gradients(folder: Path, step: int, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"gradients_{step}_{rank}.pt")


def assert_equal_steps(run: Path, expected: Path, num_steps: int, ranks: tuple[int, ...] = (0,)) -> None:
    logs, wanted = rows(run), rows(expected)
    assert len(logs) == len(wanted) == num_steps
    for step in range(num_steps):
        full = gradients(expected, step)
        norm = torch.stack([gradient.norm() for gradient in full.values()]).norm().item()
        assert norm > 1e-2
        for rank in ranks:
            own = gradients(run, step, rank)
            assert own.keys() == full.keys()
            for name, gradient in full.items():
                assert (own[name] - gradient).norm().item() < 2e-6 * norm, (step, rank, name)
        assert compared(logs[step]) == pytest.approx(compared(wanted[step]), rel=1e-5, abs=1e-5), step


def test_sft(run_stage, run_on_two, kept_gradients, tmp_path):
    """Six clips: a step of four, and the epoch's rest of two, of which accumulation by three has one micro-batch."""
    options = (*PLAIN, "trainer.val_check_interval=6")
    full = run_stage("sft", tmp_path / "4x1", 2, *PLAIN, *micro_batches(4, 1), "trainer.val_check_interval=2")
    single = run_stage("sft", tmp_path / "1x4", 2, *options, *micro_batches(1, 4))
    assert_equal_steps(single, full, 2)
    together = run_on_two("sft", tmp_path / "ddp", 2, *PLAIN, *micro_batches(1, 2), "trainer.val_check_interval=3")
    assert_equal_steps(together, full, 2, ranks=(0, 1))


def test_grpo(run_stage, run_on_two, kept_gradients, rollout_by_name, start, tmp_path):
    """Four clips: a step of three and the epoch's rest of one; or of two micro-batches in each of two processes."""
    options = (*PLAIN, start, "stage.beta=0.04", "stage.num_generations=4", "callbacks.completions.every_n_steps=1")
    options = (*options, "stage.loss_type=bnpo", "stage.loss_normalizer=accumulated_batch")
    full = run_stage("grpo", tmp_path / "3x1", 2, *options, *micro_batches(3, 1))
    single = run_stage("grpo", tmp_path / "1x3", 2, *options, *micro_batches(1, 3))
    assert_equal_steps(single, full, 2)
    assert {"train/reward_std", "train/kl", "train/completions/max_length", "train/hacking/constant3_reward"} <= set(
        rows(single)[0]
    )
    for step in (1, 2):
        tables = [(folder / "completions" / f"step_{step:06d}.jsonl").read_text() for folder in (single, full)]
        completions = [
            [(row["name"], row["completion"]) for row in map(json.loads, table.splitlines())] for table in tables
        ]
        assert completions[0] == completions[1]
        assert len(completions[0]) == 4 * (3, 1)[step - 1]
    full = run_stage("grpo", tmp_path / "4x1", 1, *options, *micro_batches(4, 1))
    together = run_on_two("grpo", tmp_path / "ddp", 1, *options, *micro_batches(1, 2))
    assert_equal_steps(together, full, 1, ranks=(0, 1))


def test_times_and_progress_are_those_of_all_micro_batches(run_stage, tmp_path, monkeypatch, capsys):
    """By a clock that advances by one second at each look."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(PhaseTimer, "now", lambda timer: float(next(ticks)))
    plain = (*PLAIN, "trainer.val_check_interval=6")
    one = rows(run_stage("sft", tmp_path / "one", 1, *plain, *micro_batches(1, 1)))[0]
    three = rows(run_stage("sft", tmp_path / "three", 1, *plain, *micro_batches(1, 3)))[0]
    assert one["system/time/forward"] == one["system/time/backward"] == 1.0
    assert three["system/time/forward"] == three["system/time/backward"] == 3.0
    assert three["system/time/optimizer"] == one["system/time/optimizer"]
    assert three["system/time/step"] > 2 * one["system/time/step"]
    assert f"sft 1/1  loss {three['train/loss']:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize("experiment", ["sft", "grpo"])
def test_a_step_that_is_cut_between_its_micro_batches_resumes(run_stage, tmp_path, monkeypatch, experiment):
    """A validation in mid-step writes the checkpoint: weights, logs and completions are those of an uncut run."""
    saved, cut = LastCheckpoint.on_validation_end, tmp_path / "cut"

    def keep_first(callback, trainer, module):
        saved(callback, trainer, module)
        if trainer.global_step == 0:
            (cut / "checkpoints").mkdir(parents=True)
            shutil.copy(Path(callback.dirpath) / "last.ckpt", cut / "checkpoints" / "last.ckpt")

    options = ("logger=csv", *micro_batches(1, 3), "trainer.val_check_interval=2", "optim.optimizer.lr=0.01")
    if experiment == "grpo":
        options = (*options, "stage.num_generations=3", "stage.loss_normalizer=accumulated_batch")
        options = (*options, "init_from=null", "prompt.max_completion_length=8")
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_validation_end", keep_first)
        full = run_stage(experiment, tmp_path / "uncut", 2, *options)
    stored = checkpoint_of(cut)
    assert (stored["position"], stored["accumulated"]["num_batches"]) == ([0, 2], 2)
    resumed: list[dict] = []
    monkeypatch.setattr(
        ExactResume,
        "on_train_start",
        lambda callback, *run: resumed.append(copy.deepcopy(callback.process_state(*run))),
    )
    run_stage(experiment, cut, 2, *options, "ckpt_path=last")
    (again,) = resumed  # a checkpoint written before the first batch would be the same
    assert again["accumulated"] == stored["accumulated"]
    assert torch.equal(again["random_state"]["torch"], stored["random_state"]["torch"])
    assert again["gradients"].keys() == stored["gradients"].keys() != set()
    assert all(torch.equal(again["gradients"][name], gradient) for name, gradient in stored["gradients"].items())
    assert_equal_weights(checkpoint_of(full), checkpoint_of(cut))
    assert [compared(row) for row in rows(cut)] == [compared(row) for row in rows(full)]
    assert all(row["system/time/step"] > stored["seconds"]["step_time"] for row in rows(cut)[:1])
    if experiment == "grpo":
        first = "completions/step_000001.jsonl"
        assert (cut / first).read_text() == (full / first).read_text()
        assert (cut / first).read_text().count("\n") == 9
