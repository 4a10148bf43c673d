"""A sweep of a few steps: trained once, resumed after SIGKILL as if nothing had happened, every run ended."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from helpers.forked import run_command
from helpers.runs import assert_equal_weights, checkpoint_of, signal_at_batch, tracked_runs

SMALL = (
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=3",
    "data.eval_batch_size=4",
    "data.batch_size=2",
    "callbacks.progress.every_n_steps=1",
    "callbacks.last_checkpoint.every_n_steps=2",
    "stage.num_generations=2",
    "prompt.max_completion_length=6",
    "seed=1",
)
GRID = ("penalty=ratio,none", "trainer.max_steps=6")


def _overrides(workspace, start, name, ablation, *overrides):
    return [
        *("-m", f"ablation={ablation}", f"experiment_name={name}"),
        *(f"paths.data={workspace}/data", f"paths.outputs={workspace}/outputs", start),
        *SMALL,
        *overrides,
    ]


def _sweep(*arguments):
    done = run_command("train", *_overrides(*arguments))
    assert done.returncode == 0, done.stderr[-4000:]


def _sweep_until_killed(trial, step, *arguments):
    """Run a sweep that kills itself once its ``trial``-th trial has made ``step`` steps."""

    modules = []

    def is_due(module):
        if not any(module is known for known in modules):
            modules.append(module)
        return (len(modules), module.trainer.global_step) == (trial, step)

    done = run_command("train", *_overrides(*arguments), prepare=lambda: signal_at_batch(is_due))
    assert done.returncode == -signal.SIGKILL, done.stderr[-4000:]


def _runs(workspace, name):
    client, runs = tracked_runs(workspace / "outputs", name)
    (parent,) = (run for run in runs if run.data.tags["affectgpt.kind"] == "sweep")
    trials = {run.info.run_id: run for run in runs if run.data.tags["affectgpt.kind"] == "trial"}
    return client, parent, trials


def _artifact(client, run, path):
    return Path(client.download_artifacts(run.info.run_id, path)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def swept(workspace, start):
    """Run the penalty sweep of two trials by its command; return what it lists, too."""
    _sweep(workspace, start, "swept", "penalty", *GRID)
    client, parent, _ = _runs(workspace, "swept")
    return workspace, json.loads(_artifact(client, parent, "trials.json"))


def test_a_sweep_trains_each_trial_and_lists_them(swept):
    _, parent, trials = _runs(swept[0], "swept")
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "penalty"
    assert parent.data.tags["affectgpt.baseline"] == "none"
    listed = swept[1]
    assert [(entry["choice"], entry["seed"]) for entry in listed] == [("ratio", 1), ("none", 1)]
    assert {entry["run_id"] for entry in listed} <= set(trials)
    for entry in listed:
        run = trials[entry["run_id"]]
        assert run.info.status == "FINISHED"
        assert run.info.run_name == f"penalty-{entry['choice']}-seed1"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        tags = {key.removeprefix("affectgpt."): value for key, value in run.data.tags.items()}
        assert (tags["penalty"], tags["prompt"], tags["reward"]) == (entry["choice"], "no_think", "accuracy_format")
        assert (tags["config_hash"], tags["seed"], tags["synthetic"]) == (entry["config_hash"], "1", "true")


def test_a_trial_is_evaluated_on_the_test_split(swept):
    client, _, trials = _runs(swept[0], "swept")
    for run in trials.values():
        rows = [json.loads(line) for line in _artifact(client, run, "test/answers.jsonl").splitlines()]
        assert [row["name"] for row in rows] == [f"synthetic_test_{number:05d}" for number in range(4)]
        assert set(rows[0]) == {"name", "target", "openset", "completion", "well_formed", "f1"}
        metrics = run.data.metrics
        assert metrics["test/answers/target_words"] == pytest.approx(sum(len(set(row["target"])) for row in rows) / 4)
        words = sum(len({word.strip().lower() for word in row["openset"]}) for row in rows)
        assert metrics["test/answers/distinct_words"] == pytest.approx(words / 4)
        assert 0.0 <= metrics["test/f1"] <= 1.0


def test_the_parent_run_holds_the_clips_that_a_report_shows(swept):
    client, parent, _ = _runs(swept[0], "swept")
    clips = json.loads(_artifact(client, parent, "clips/clips.json"))
    assert sorted(clip["name"] for clip in clips) == [f"synthetic_test_{number:05d}" for number in range(4)]
    for clip in clips:
        assert clip["target"]
        assert len(clip["frames"]) == 4
        for file in clip["frames"]:
            path = Path(client.download_artifacts(parent.info.run_id, f"clips/{file}"))
            assert path.read_bytes().startswith(b"\x89PNG")


def test_a_finished_trial_is_not_trained_again_and_the_seeds_share_an_untrained_one(swept, start):
    workspace, first = swept
    before = {run_id: run.info.end_time for run_id, run in _runs(workspace, "swept")[2].items()}
    _sweep(workspace, start, "swept", "penalty", *GRID, "reward=accuracy_format,none", "penalty=ratio", "seed=1,2")
    client, parent, trials = _runs(workspace, "swept")
    assert {run_id: trials[run_id].info.end_time for run_id in before} == before
    listed = json.loads(_artifact(client, parent, "trials.json"))
    assert listed[0] == first[0]
    assert [entry["choice"] for entry in listed] == ["ratio", "ratio_untrained"] * 2
    assert len({entry["run_id"] for entry in listed}) == 3
    assert len(trials) == 4
    untrained = trials[listed[-1]["run_id"]]
    assert "test/f1" in untrained.data.metrics
    assert not any(name.startswith("train/") for name in untrained.data.metrics)


@pytest.mark.slow  # 39 s; test_kill.py has the same of a run, and the test before this one that a sweep takes up trials
def test_a_killed_trial_ends_as_it_would_have(swept, start):
    workspace, uncut = swept
    _sweep_until_killed(2, 5, workspace, start, "killed", "penalty", *GRID)
    _, parent, trials = _runs(workspace, "killed")
    assert parent.info.status == "RUNNING"
    assert sorted(run.info.status for run in trials.values()) == ["FINISHED", "RUNNING"]
    (finished,) = (run for run in trials.values() if run.info.status == "FINISHED")
    _sweep(workspace, start, "killed", "penalty", *GRID)
    client, parent, trials = _runs(workspace, "killed")
    assert {run.info.status for run in (parent, *trials.values())} == {"FINISHED"}
    assert len(trials) == 2
    assert trials[finished.info.run_id].info.end_time == finished.info.end_time
    uncut_runs = _runs(workspace, "swept")[2]
    for expected, resumed in zip(uncut, json.loads(_artifact(client, parent, "trials.json")), strict=True):
        assert expected["config_hash"] == resumed["config_hash"]
        for file in ("last", "best"):
            _assert_equal_weights(workspace, expected["config_hash"], file)
        first, second = (uncut_runs[expected["run_id"]], trials[resumed["run_id"]])
        assert _test_metrics(first) == _test_metrics(second)


def _assert_equal_weights(workspace, config_hash, file):
    first, second = (checkpoint_of(workspace / "outputs" / name / config_hash, file) for name in ("swept", "killed"))
    assert first["global_step"] == second["global_step"]
    assert_equal_weights(first, second)


def _test_metrics(run):
    return {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}


@pytest.mark.slow
def test_a_run_that_lost_its_process_is_marked_even_if_its_trial_is_gone(workspace, start):
    """Killed before its first checkpoint, and never asked for again."""
    _sweep_until_killed(1, 1, workspace, start, "orphan", "penalty", "penalty=ratio", "trainer.max_steps=8")
    (lost,) = _runs(workspace, "orphan")[2].values()
    shutil.rmtree(workspace / "outputs" / "orphan" / lost.data.tags["affectgpt.config_hash"])
    _sweep(workspace, start, "orphan", "penalty", "penalty=none", "trainer.max_steps=1")
    _, parent, trials = _runs(workspace, "orphan")
    assert parent.info.status == "FINISHED"
    assert trials[lost.info.run_id].info.status == "KILLED"
    assert sorted(run.info.status for run in trials.values()) == ["FINISHED", "KILLED"]
