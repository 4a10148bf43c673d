"""Which runs an evaluation takes, and what it says of them."""

from __future__ import annotations

import json

import pytest
import torch
from hydra import compose, initialize_config_dir

from affectgpt_r1.cli.report import main as report
from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.config.run_lock import owned
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.evaluation.compare_policies import evaluate
from affectgpt_r1.evaluation.compared_runs import describe_run, find_checkpoints
from affectgpt_r1.policy.checkpoint import check_there


@pytest.fixture
def composed(tmp_path):
    def build(*overrides: str):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("evaluate", [f"paths.outputs={tmp_path}", "experiment_name=t", *overrides])

    return build


def leave(tmp_path, name):
    path = tmp_path / "t" / name / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    stored = {"state_dict": {}, "global_step": 7, "config": {"seed": 3, "stage": {"name": "grpo"}}}
    torch.save(stored, path)
    return path


def test_default_systems_that_are_not_there_are_left_out_and_named(composed, tmp_path, caplog):
    sft = leave(tmp_path, "sft")
    assert find_checkpoints(composed()) == {"sft": str(sft)}
    assert "No grpo at " in caplog.text


def test_a_system_that_was_asked_for_is_not_left_out(composed, tmp_path):
    leave(tmp_path, "sft")
    with pytest.raises(CheckpointError, match=r"systems\.grpo=/nowhere/best\.ckpt: no such checkpoint"):
        find_checkpoints(composed("systems.grpo=/nowhere/best.ckpt"))


def test_other_runs_of_a_stage_are_named_and_not_chosen(composed, tmp_path, caplog):
    leave(tmp_path, "sft")
    other = leave(tmp_path, "grpo+penalty-ratio")
    assert list(find_checkpoints(composed())) == ["sft"]
    assert f"choose by systems.grpo= one of {other}" in caplog.text
    assert find_checkpoints(composed(f"systems.grpo={other}"))["grpo"] == str(other)
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*; there is .*grpo\+penalty-ratio"):
        check_there(tmp_path / "t" / "grpo" / "checkpoints" / "best.ckpt")


def test_a_run_that_is_being_trained_is_not_compared(composed, tmp_path):
    leave(tmp_path, "sft")
    leave(tmp_path, "grpo")
    with owned(tmp_path / "t" / "grpo"), pytest.raises(CheckpointError, match=r"is being trained by process \d+ on "):
        find_checkpoints(composed())
    assert set(find_checkpoints(composed())) == {"sft", "grpo"}


def test_two_evaluations_and_two_reports_do_not_write_into_one_folder(composed, tmp_path, capsys):
    leave(tmp_path, "sft")
    with owned(tmp_path / "t"), pytest.raises(ConfigError, match=r"t is in use by process \d+ on .*; wait for it"):
        evaluate(composed("logger=none"), print)
    with owned(tmp_path / "report"), pytest.raises(SystemExit):
        report(["--outputs", str(tmp_path)])
    assert "is in use by process" in capsys.readouterr().err


def test_a_run_is_described_by_its_checkpoint_and_its_record(tmp_path):
    path = leave(tmp_path, "grpo")
    described = describe_run(str(path), tmp_path)
    assert described == {
        "checkpoint": "t/grpo/checkpoints/best.ckpt",
        "stage": "grpo",
        "step": 7,
        "seed": 3,
        "git_commit": None,
        "finished": False,
    }
    (path.parent.parent / "run.json").write_text(json.dumps({"git_commit": "abc"}))
    described = describe_run(str(path), "/elsewhere")
    assert (described["checkpoint"], described["git_commit"], described["finished"]) == (str(path), "abc", True)
