import json
from pathlib import Path

import numpy as np
import pytest

from affectgpt_r1.tracking.killed_runs import process_tags
from affectgpt_r1.tracking.sweeps import HASH, KIND, SWEEP, SweepRuns, sweep_lock


@pytest.fixture
def runs(outputs):
    return SweepRuns(outputs, "ablations", outputs / "locks")


def start_trial(runs, config_hash, **metrics):
    tags = {KIND: "trial", HASH: config_hash, **process_tags(runs._locks / f"{config_hash}.lock", runs._outputs)}
    run = runs._client.create_run(runs._experiment_id, tags=tags, run_name=config_hash)
    for name, value in metrics.items():
        runs._client.log_metric(run.info.run_id, name.replace("_", "/"), value)
    return run.info.run_id


def status(runs, run_id):
    return runs._client.get_run(run_id).info.status


def test_only_a_finished_and_tested_trial_counts(runs):
    start_trial(runs, "a", test_f1=0.5)  # still running
    untested = start_trial(runs, "a")
    runs._client.set_terminated(untested, "FINISHED")
    tested = start_trial(runs, "b", test_f1=0.5)
    runs._client.set_terminated(tested, "FINISHED")
    assert runs.finished_trial("a") is None
    assert runs.finished_trial("b") == tested
    assert runs.score(tested) == 0.5
    assert runs.has_trial(untested, "a")
    assert not runs.has_trial(untested, "b")
    assert not runs.has_trial(None, "a")


def test_a_run_is_marked_killed_only_when_its_lock_is_free(runs):
    alive, dead = start_trial(runs, "alive"), start_trial(runs, "dead")
    sweep = runs.open_sweep("reward", baseline="none", synthetic=True)
    plain = runs._client.create_run(runs._experiment_id).info.run_id  # not a trial, so not ours
    for name in ("dead", sweep_lock("reward")):
        with runs.lock(name):  # as their processes did
            pass
    with runs.lock("alive"):
        assert set(runs.mark_killed()) == {dead, sweep}
    assert [status(runs, run) for run in (alive, dead, sweep, plain)] == ["RUNNING", "KILLED", "KILLED", "RUNNING"]
    assert runs.mark_killed() == [alive]


def test_a_sweep_has_one_parent_run_however_often_it_starts(runs):
    first = runs.open_sweep("reward", baseline="none", synthetic=True)
    trials = [{"choice": "none", "seed": 1, "config_hash": "a", "run_id": "r"}]
    with runs.lock(sweep_lock("reward")):
        assert runs.mark_killed() == []
        runs.close_sweep(first, trials, "FAILED")
    assert status(runs, first) == "FAILED"
    assert runs.open_sweep("reward", baseline="accuracy_format", synthetic=True) == first
    assert runs.open_sweep("penalty", baseline="none", synthetic=True) != first
    assert status(runs, first) == "RUNNING"
    runs.close_sweep(first, [], "FINISHED")  # nothing was run: the list that was there stays
    run = runs._client.get_run(first)
    assert (run.info.status, run.data.tags["affectgpt.baseline"]) == ("FINISHED", "accuracy_format")
    assert (run.data.tags[SWEEP], run.data.tags["experiment"]) == ("reward", "ablations")
    assert json.loads(Path(runs._client.download_artifacts(first, "trials.json")).read_text()) == trials
    assert runs.find_sweep("reward") == first
    assert runs.find_sweep("reasoning") is None


def page(runs, run_id):
    return runs._client.get_run(run_id).data.tags["mlflow.note.content"]


def test_the_parents_page_has_the_table_and_the_curves(runs):
    sweep = runs.open_sweep("penalty", baseline="none", synthetic=True)
    trials = []
    for choice, seed, score in (("none", 1, 0.5), ("none", 2, 0.7), ("ratio", 1, 0.25)):
        run = start_trial(runs, f"{choice}{seed}", **{"test/f1": score})
        for step in (5, 10):
            runs._client.log_metric(run, "val/f1", score + step / 100, step=step)
        trials.append({"choice": choice, "seed": seed, "config_hash": "a", "run_id": run})
    command = "\n\nCommand: `" + runs._client.get_run(sweep).data.tags["command"] + "`"
    assert page(runs, sweep) == f"**Synthetic clips.** No trial has ended; they are its child runs.{command}"
    runs.describe(sweep, trials[:2])  # while it is running
    assert page(runs, sweep).startswith("**Synthetic clips.** Highest test F1: **none** 0.600 ± 0.141; mean over seeds")
    assert runs._client.get_run(sweep).data.metrics == {}
    runs.close_sweep(sweep, trials, "FINISHED")
    parent = runs._client.get_run(sweep).data
    assert "| none | 2 | &emsp;0.600 ± 0.141 |  |  |  |\n| ratio | 1 | &emsp;0.250 |" in page(runs, sweep)
    assert [parent.tags[name] for name in ("stage", "baseline")] == ["sweep", "none"]
    assert page(runs, sweep).endswith(command)
    assert parent.metrics["test/f1/none"] == pytest.approx(0.6)
    curve = [(point.step, point.value) for point in runs._client.get_metric_history(sweep, "val/f1/none")]
    assert curve == [(5, pytest.approx(0.65)), (10, pytest.approx(0.7))]


def test_clips_are_logged_with_their_frames(runs):
    sweep = runs.open_sweep("reward", baseline="none", synthetic=True)
    assert not runs.has_clips(sweep)
    clip = {"name": "one", "subtitle": "Hé!", "target": ["happy"]}
    runs.log_clips(sweep, [clip], {"one": np.zeros((2, 4, 4, 3), np.uint8)})
    assert runs.has_clips(sweep)
    written = json.loads(Path(runs._client.download_artifacts(sweep, "clips/clips.json")).read_text(encoding="utf-8"))
    assert written == [{**clip, "frames": ["one-0.png", "one-1.png"]}]
    png = Path(runs._client.download_artifacts(sweep, "clips/one-1.png")).read_bytes()
    assert png.startswith(b"\x89PNG")
