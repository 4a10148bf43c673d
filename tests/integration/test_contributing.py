"""CONTRIBUTING.md is followed word for word, in a copy of the package."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from helpers.documents import REPOSITORY, code_blocks
from helpers.forked import forget_modules, run_command
from helpers.runs import checkpoint_of, logged_steps

GUIDE = code_blocks(".github/CONTRIBUTING.md")
SHORT = (
    *("trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.log_every_n_steps=1"),
    *("optim.scheduler.total_steps=20", "logger=csv"),
    *("data.batch_size=2", "data.eval_batch_size=4", "callbacks.completions.console_rows=0"),
)


@pytest.fixture(scope="module")
def clone(workspace, sft_run, tiny_data_root, tmp_path_factory) -> Path:
    """Copy package and configurations; add the guide's files, and the clips and policies that its commands need."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    for block in GUIDE:
        if block.file:
            (folder / block.file).write_text(block.text, "utf-8")
    shutil.copytree(workspace / "data", folder / "data" / "synthetic")
    shutil.copytree(workspace / "outputs", folder / "outputs")
    shutil.copytree(sft_run, folder / "outputs" / "demo-no_think-seed1" / "sft")
    data = tiny_data_root(folder / "my-data")
    shutil.copy(data / "track2_train_ovmerd.csv", data / "labels.csv")
    for unneeded in ("openface_face", "subtitle_chieng.csv", "audio", "test.csv"):
        target = data / unneeded
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    return folder


def _follow(clone: Path, number: int, *overrides: str) -> Path:
    """Run the guide's ``number``-th training; returns the run's folder."""
    commands = [block.commands[0] for block in GUIDE if block.text.startswith("affectgpt-r1 train")]
    _, command, *arguments = shlex.split(commands[number])

    def enter() -> None:
        os.chdir(clone)
        forget_modules("affectgpt_r1")
        sys.path.insert(0, str(clone / "src"))

    folder = clone / "outputs" / "followed" / str(number)
    done = run_command(command, *arguments, *SHORT, f"paths.run={folder}", *overrides, prepare=enter)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_reward(clone):
    (row,) = (row for row in logged_steps(_follow(clone, 0)) if row["train/reward"])

    assert 0 <= float(row["train/rewards/brevity/mean"]) <= 1
    assert float(row["train/reward"]) == pytest.approx(
        float(row["train/rewards/accuracy/mean"])
        + 0.2 * float(row["train/rewards/format/mean"])
        + 0.2 * float(row["train/rewards/brevity/mean"])
    )


def test_a_data_set(clone):
    data = checkpoint_of(_follow(clone, 1))["config"]["data"]

    assert (data["root"], data["visual"], data["modalities"]) == ("my-data", "frame", ["video", "audio"])


def test_a_model(clone):
    weights = checkpoint_of(_follow(clone, 2))["state_dict"]

    assert {tensor.shape[-1] for name, tensor in weights.items() if name.endswith("q_proj.weight")} == {192}


def test_a_family(clone):
    folder = _follow(clone, 3)

    assert checkpoint_of(folder)["config"]["model"]["family"] == "plain"
    assert float(logged_steps(folder)[0]["train/loss"]) > 0
