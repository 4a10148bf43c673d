"""A clone that is moved or copied takes its artifacts along."""

import shutil
import sqlite3

import mlflow.artifacts
import pytest
from mlflow.tracking import MlflowClient

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.tracking.database import ensure_database
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger
from affectgpt_r1.tracking.relocate_artifacts import relocate_artifacts


@pytest.fixture
def outputs(outputs):
    logger = TrackedMLFlowLogger(outputs, "an experiment", run_name="sft-seed1", stage="sft")
    logger.log_text("kept", "note.txt")
    logger.end("FINISHED")
    return outputs


def note_of(folder):
    uri = ensure_database(folder)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("an experiment")
    (run,) = client.search_runs([experiment.experiment_id])
    assert experiment.artifact_location == (folder / "artifacts" / "an_experiment").as_uri()
    assert run.info.artifact_uri.startswith(f"{experiment.artifact_location}/")
    return mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt")


def test_artifacts_are_found_where_the_clone_went_and_where_it_was_copied(outputs, tmp_path):
    assert note_of(outputs) == "kept"
    copied, moved = tmp_path / "copied here", tmp_path / "moved"
    shutil.copytree(outputs, copied)
    assert note_of(copied) == "kept"
    shutil.move(outputs, moved)
    assert note_of(moved) == "kept"
    assert relocate_artifacts(moved / "mlflow.db") == []


def test_artifacts_that_stayed_behind_or_are_elsewhere_are_left_alone(outputs, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(outputs / "mlflow.db", alone)
    assert relocate_artifacts(alone / "mlflow.db") == []
    elsewhere = "s3://bucket/an_experiment"
    with sqlite3.connect(alone / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (elsewhere,))
    (alone / "artifacts" / "an_experiment").mkdir(parents=True)
    assert relocate_artifacts(alone / "mlflow.db") == []


def test_a_database_in_use_is_named(outputs, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    shutil.move(outputs, moved)
    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda path: connect(path, timeout=0.0))
    holder = connect(moved / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ConfigError, match=r"the clone was moved.*locked.*end what uses the database"):
        relocate_artifacts(moved / "mlflow.db")
    holder.close()
