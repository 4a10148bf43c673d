"""A run never destroys another: what a second command does in a folder that holds a run."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from affectgpt_r1.errors import ConfigError, DataError
from helpers.forked import run_command
from helpers.runs import assert_equal_weights, checkpoint_of, signal_at_batch


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file but the log, which says who came by, and the lock."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in ("train.log", ".lock")
    }


def test_a_finished_run_is_neither_trained_again_nor_replaced_unless_overwrite_says_so(run_stage, tmp_path, recwarn):
    folder = run_stage("sft", tmp_path / "run", 2)
    before = contents(folder)
    assert {".hydra/config.yaml", "run.json", "checkpoints/last.ckpt"} <= set(before)
    run_stage("sft", folder, 2)
    assert contents(folder) == before
    with pytest.raises(ConfigError, match=r"holds a finished run with optim\.optimizer\.lr=0\.002 \(here 0\.5\)"):
        run_stage("sft", folder, 2, "optim.optimizer.lr=0.5")
    assert contents(folder) == before
    run_stage("sft", folder, 2, "debug=overfit", f"paths.run={tmp_path}/debug", "trainer.max_steps=2")
    assert not (tmp_path / "debug" / "run.json").exists()
    with pytest.raises(DataError, match=r"track9\.csv"):  # overwrite=true removes nothing before all was checked
        run_stage("sft", folder, 2, "overwrite=true", "data.train_labels=track9.csv")
    assert contents(folder) == before
    run_stage("sft", folder, 1, "overwrite=true")
    assert json.loads((folder / "run.json").read_text())["steps"] == 1
    assert checkpoint_of(folder)["global_step"] == 1
    assert not [warning for warning in recwarn if "exists and is not empty" in str(warning.message)]


def interrupted(overrides, step: int, number: int) -> subprocess.CompletedProcess[str]:
    """Run the command, which sends itself a signal once it has made ``step`` steps; -1: never."""

    def prepare():
        signal_at_batch(lambda module: module.trainer.global_step == step, number)

    return run_command("train", *overrides, prepare=prepare)


def test_the_same_command_continues_a_run_that_ctrl_c_stopped(stage_overrides, run_stage, tmp_path):
    every = "callbacks.last_checkpoint.every_n_steps=1"
    overrides = stage_overrides("sft", tmp_path / "cut", 4, every)
    stopped = interrupted(overrides, 2, signal.SIGINT)
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command continues from" in stopped.stderr.strip().splitlines()[-1]
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "cut" / "run.json").exists()
    again = interrupted(overrides, -1, signal.SIGINT)
    assert again.returncode == 0, again.stderr
    assert "unfinished: it continues from its last checkpoint" in again.stderr
    uncut = run_stage("sft", tmp_path / "uncut", 4, every)
    assert_equal_weights(checkpoint_of(uncut), checkpoint_of(tmp_path / "cut"))
    assert "nothing to do; overwrite=true trains it again" in interrupted(overrides, -1, signal.SIGINT).stderr
    log = (tmp_path / "cut" / "train.log").read_text()
    assert log.count("[INFO] - Process ") == 3
    for said in ("the same command continues from", "Ended by SystemExit: 130", "sft ended: ", "nothing to do"):
        assert said in log, said
