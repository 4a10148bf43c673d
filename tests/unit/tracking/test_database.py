import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.tracking.database import ensure_database, ensure_experiment

LOG_A_RUN = """
import sys
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger
from affectgpt_r1.tracking.run_status import tracked_run
folder, index = sys.argv[1:]
logger = TrackedMLFlowLogger(folder, "race", run_name=f"run{index}")
with tracked_run([logger]):
    for step in range(20):
        logger.log_metrics({"train/loss": float(index)}, step=step)
print(logger.run_id, logger.experiment_id)
"""


def test_database_is_made_once_and_is_intact(outputs):
    before = (outputs / "mlflow.db").stat().st_mtime_ns
    uri = ensure_database(outputs)
    assert uri == f"sqlite:///{outputs.resolve()}/mlflow.db"
    assert (outputs / "mlflow.db").stat().st_mtime_ns == before
    with sqlite3.connect(outputs / "mlflow.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"runs", "metrics", "params", "tags", "experiments"} <= tables


def test_default_experiment_keeps_its_artifacts_in_the_outputs_folder(database_template):
    with sqlite3.connect(database_template) as connection:
        (location,) = connection.execute("SELECT artifact_location FROM experiments").fetchone()
    assert location.startswith((database_template.parent / "artifacts").as_uri())


def test_relative_folder_gives_an_absolute_uri(outputs, monkeypatch):
    monkeypatch.chdir(outputs.parent)
    assert ensure_database(Path("outputs")) == f"sqlite:///{outputs.resolve()}/mlflow.db"


def test_experiment_has_an_explicit_artifact_folder_and_one_id(outputs):
    from mlflow.tracking import MlflowClient

    uri = ensure_database(outputs)
    first = ensure_experiment(uri, "sft / tiny", outputs / "artifacts")
    assert ensure_experiment(uri, "sft / tiny", outputs / "artifacts") == first
    client = MlflowClient(uri)
    assert client.get_experiment(first).artifact_location == (outputs.resolve() / "artifacts" / "sft_tiny").as_uri()
    client.delete_experiment(first)
    assert ensure_experiment(uri, "sft / tiny", outputs / "artifacts") == first
    assert client.get_experiment(first).lifecycle_stage == "active"


def test_file_that_is_not_a_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database at all")
    with pytest.raises(ConfigError, match=r"mlflow\.db: this is not an SQLite database; .*logger=csv"):
        ensure_database(tmp_path)


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file.*paths\.outputs="):
        ensure_database(tmp_path / "file" / "outputs")


@pytest.mark.slow
def test_four_processes_share_a_fresh_folder(tmp_path):
    left = [tmp_path / ".1-ab.partial", tmp_path / ".1-ab.partial-journal"]  # by a process that was killed
    for file in left:
        file.write_bytes(b"half")
    commands = [[sys.executable, "-c", LOG_A_RUN, str(tmp_path), str(index)] for index in range(4)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = [process.communicate(timeout=250)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    run_ids, experiment_ids = zip(*(line.split() for line in printed), strict=True)
    assert len(set(run_ids)) == 4
    assert len(set(experiment_ids)) == 1
    assert not any(file.exists() for file in left)

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for index, run_id in enumerate(run_ids):
        assert client.get_run(run_id).info.status == "FINISHED"
        assert [m.value for m in client.get_metric_history(run_id, "train/loss")] == [float(index)] * 20
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
