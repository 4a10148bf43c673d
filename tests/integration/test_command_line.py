"""Both stages through the command line on a dozen clips, with MLflow; what is recorded of a run that was ended."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from helpers.forked import forget_modules, run_command
from helpers.runs import tracked_runs

OVERRIDES = (
    "trainer.log_every_n_steps=1",
    "callbacks.progress.every_n_steps=1",
    "callbacks.completions.every_n_steps=1",
    "data.eval_batch_size=4",
    "data.batch_size=2",
    "trainer.val_check_interval=2",
)


def _arguments(workspace, *overrides):
    return (f"paths.data={workspace}/data", f"paths.outputs={workspace}/outputs", "experiment_name=cli", *overrides)


def _run(command, workspace, *overrides):
    done = run_command(command, *_arguments(workspace, *overrides))
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(workspace):
    """SFT, GRPO, control and evaluation, one after the other; returns the workspace and what evaluation printed."""
    for experiment in ("sft", "grpo", "control"):
        limit = () if experiment == "control" else ("trainer.max_steps=4",)
        _run("train", workspace, f"experiment=demo/{experiment}", *OVERRIDES, *limit)
    return workspace, _run("evaluate", workspace, "data.eval_batch_size=4")


def _run_of(workspace, stage):
    client, runs = tracked_runs(workspace / "outputs", "cli")
    (run,) = (run for run in runs if run.data.tags["stage"] == stage)
    return client, run


def test_summary_holds_every_system_and_metric(trained):
    workspace, printed = trained
    summary = json.loads((workspace / "outputs" / "cli" / "summary.json").read_text())
    assert summary["synthetic"] is True
    assert summary["num_clips"] == 4
    for system in ("sft", "control", "grpo"):
        assert set(summary[system]["mean_level1"]) == {"f1", "precision", "recall"}
        assert set(summary[system]["without"]) == {"video", "audio", "text"}
        assert 0.0 <= summary[system]["format_rate"] <= 1.0
        assert summary[system]["words_per_answer"] == pytest.approx(
            summary[system]["distinct_words"] + summary[system]["repeated_words"]
        )
    assert set(summary["differences"]) == {"grpo_minus_sft", "grpo_minus_control", "control_minus_sft"}
    assert len(summary["baselines"]) == 2
    assert "synthetic" in printed
    assert summary["runs"]["grpo"]["checkpoint"] == "cli/grpo/checkpoints/best.ckpt"
    assert [summary["runs"][system]["finished"] for system in ("sft", "control", "grpo")] == [True] * 3
    assert "cli/control/checkpoints/best.ckpt" in (workspace / "outputs" / "cli" / "tables.txt").read_text()


def test_predictions_have_one_row_per_clip(trained):
    workspace, _ = trained
    rows = [json.loads(line) for line in (workspace / "outputs/cli/predictions/grpo.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [f"synthetic_test_{number:05d}" for number in range(4)]
    assert all(isinstance(row["openset"], list) for row in rows)


@pytest.mark.parametrize("stage", ["sft", "grpo", "control", "evaluate"])
def test_mlflow_run_is_finished_and_says_where_it_comes_from(trained, stage):
    _, run = _run_of(trained[0], stage)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "1"
    assert run.data.params["prompt.enable_thinking"] == "False"
    assert {"git_commit", "git_dirty", "data_digest", "command"} <= set(run.data.tags)
    assert run.data.tags["synthetic"] == "true"


def test_mlflow_holds_trl_names_for_every_step(trained):
    client, run = _run_of(trained[0], "grpo")
    names = ("reward", "reward_std", "frac_reward_zero_std", "rewards/accuracy/mean", "rewards/format/mean")
    names += ("completions/mean_length", "completions/clipped_ratio", "entropy", "clip_ratio/high_mean", "loss")
    for name in names:
        assert len(client.get_metric_history(run.info.run_id, f"train/{name}")) == 4, name
    assert len(client.get_metric_history(run.info.run_id, "val/f1")) == 2


def test_mlflow_holds_completions_config_and_evaluation(trained):
    client, run = _run_of(trained[0], "grpo")
    tables = [file.path for file in client.list_artifacts(run.info.run_id, "completions")]
    assert len(tables) == 4
    table = json.loads(Path(client.download_artifacts(run.info.run_id, tables[0])).read_text())
    assert {"name", "prompt", "target", "completion", "accuracy", "format", "reward", "advantage"} <= set(
        table["columns"]
    )
    assert len(table["data"]) == 2 * 8
    assert [file.path for file in client.list_artifacts(run.info.run_id, "config")] == ["config/resolved.yaml"]
    client, evaluation = _run_of(trained[0], "evaluate")
    assert "test/grpo/f1" in evaluation.data.metrics
    assert "evaluation/table.json" in {
        file.path for file in client.list_artifacts(evaluation.info.run_id, "evaluation")
    }


def test_sigterm_ends_the_run_as_killed_and_keeps_its_checkpoint(workspace):
    """Ctrl-C is in test_run_folders.py."""
    name = "cli-sigterm"
    sent = []

    def interrupt(process, line):
        if line.startswith("sft 6/") and not sent:
            sent.append(line)
            os.kill(process, signal.SIGTERM)

    limits = ("trainer.max_steps=100000", f"experiment_name={name}")
    done = run_command("train", *_arguments(workspace, "experiment=demo/sft", *OVERRIDES, *limits), on_line=interrupt)
    assert done.returncode == 143
    _, (record,) = tracked_runs(workspace / "outputs", name)
    assert record.info.status == "KILLED"
    assert (workspace / "outputs" / name / "sft" / "checkpoints" / "last.ckpt").is_file()


def test_failing_run_is_recorded_as_failed(workspace):
    missing = ("experiment=demo/sft", "experiment_name=cli-fails", "data.train_labels=track9_missing.csv")
    done = run_command("train", *_arguments(workspace, *missing))
    assert done.returncode == 2
    assert "track9_missing.csv" in done.stderr.splitlines()[-1]
    _, (record,) = tracked_runs(workspace / "outputs", "cli-fails")
    assert record.info.status == "FAILED"


def test_an_answer_loads_no_library_that_only_training_needs(trained):
    """Lightning with torchmetrics, matplotlib and SciPy's statistics would take a fifth of the first answer's time."""
    workspace, _ = trained
    refused = ("lightning", "torchmetrics", "matplotlib", "mlflow", "pandas")

    def refuse():
        forget_modules("affectgpt_r1", *refused)
        sys.modules.update(dict.fromkeys(refused))  # an import of one is an error

    clip = sorted((workspace / "data" / "video").glob("*.mp4"))[0]
    checkpoint = workspace / "outputs/cli/grpo/checkpoints/best.ckpt"
    options = ("--checkpoint", str(checkpoint), "--faces", "centre", "--samples", "2")
    done = run_command("predict", str(clip), *options, prepare=refuse)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["name"] == clip.stem


def test_csv_logging_works_without_mlflow(workspace):
    def forget_mlflow():
        forget_modules("affectgpt_r1", "mlflow")
        sys.modules["mlflow"] = None  # an import of it is an error

    options = ("experiment=demo/sft", *OVERRIDES, "trainer.max_steps=2", "logger=csv", "experiment_name=cli-csv")
    done = run_command("train", *_arguments(workspace, *options), prepare=forget_mlflow)
    assert done.returncode == 0, done.stderr[-3000:]
    (metrics,) = (workspace / "outputs/cli-csv/sft/csv").rglob("metrics.csv")
    assert "train/loss" in metrics.read_text().splitlines()[0]
