"""A run whose process is gone becomes KILLED at the next start, and no other."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from filelock import FileLock

from affectgpt_r1.tracking.killed_runs import LOCK_TAG, PROCESS_TAG, mark_killed
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger

HOST = socket.gethostname()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def client(logger):
    return logger.experiment


@pytest.fixture
def left(client, logger):
    """``left(lock, process)``: the id of a run that says RUNNING and names them."""

    def create(lock: str = "other/.lock", process: str = f"1@{HOST}") -> str:
        experiment = client.get_run(logger.run_id).info.experiment_id
        tags = {LOCK_TAG: lock, PROCESS_TAG: process}
        return client.create_run(experiment, tags=tags).info.run_id

    return create


def status(client, run_id: str) -> str:
    return client.get_run(run_id).info.status


def test_a_run_whose_lock_is_free_is_killed_and_one_whose_lock_is_held_runs(client, left, outputs, caplog):
    for name in ("free", "held"):
        (outputs / name).mkdir()
        (outputs / name / ".lock").touch()
    free, held, removed = left("free/.lock"), left("held/.lock"), left("removed/.lock", f"{dead_pid()}@{HOST}")
    with FileLock(outputs / "held" / ".lock"):
        assert set(mark_killed(client, outputs)) == {free, removed}
        assert [status(client, run) for run in (free, held, removed)] == ["KILLED", "RUNNING", "KILLED"]
    assert len([record for record in caplog.records if "had lost its process" in record.message]) == 2
    assert not (outputs / "removed").exists()
    assert mark_killed(client, outputs) == [held]


def test_another_machines_run_is_left_until_its_folder_is_used_again(client, left, outputs):
    """Over a network file system a lock that is free here may be held there."""
    (outputs / "shared").mkdir()
    (outputs / "shared" / ".lock").touch()
    foreign = left("shared/.lock", "1@another-machine")
    assert mark_killed(client, outputs) == []
    assert mark_killed(client, outputs, own_lock=outputs / "shared" / ".lock") == [foreign]


def test_a_run_that_has_ended_or_names_no_lock_stays_as_it_is(client, left, logger, outputs):
    ended, older = left(), left(lock="")
    client.set_terminated(ended, "FINISHED")
    assert mark_killed(client, outputs) == []
    assert [status(client, run) for run in (ended, older)] == ["FINISHED", "RUNNING"]


def test_a_file_that_a_database_names_is_neither_made_nor_changed(client, left, outputs, tmp_path):
    """A stranger's database may name any file."""
    (tmp_path / "notes.txt").write_text("own")
    (outputs / "link.lock").symlink_to(tmp_path / "notes.txt")
    runs = [left("../notes.txt"), left("link.lock"), left("../absent/x.lock")]
    mark_killed(client, outputs)
    assert (tmp_path / "notes.txt").read_text() == "own"
    assert not (tmp_path / "absent").exists()
    assert status(client, runs[1]) == "RUNNING"


def test_the_next_start_in_the_outputs_sets_the_status(outputs, logger):
    logger.start()  # and its process is killed: nobody sets a status
    run_id = logger.run_id
    (outputs / "run").mkdir(exist_ok=True)
    with FileLock(outputs / "run" / ".lock"):
        again = TrackedMLFlowLogger(outputs, "demo", run_folder=outputs / "run")
        again.start()
    assert status(again.experiment, run_id) == "KILLED"
    assert status(again.experiment, again.run_id) == "RUNNING"
