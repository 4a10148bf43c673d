"""Artifacts are read and written below the folder next to the database, whatever the database says."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.tracking.artifacts import artifact_folder, check_artifact_places, find_artifact, last_table
from affectgpt_r1.tracking.database import ensure_database, ensure_experiment
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger
from affectgpt_r1.tracking.serve import server_command
from affectgpt_r1.tracking.sweeps import SweepRuns

OUTSIDE = ("file:///etc", "/etc", "artifacts/x", "../x", "file:{outputs}/artifacts/../..", "file:{outputs}/artifacts",
           "file:{outputs}/artifacts/a/../b", "file:{outputs}/artifacts/%2e%2e/%2e%2e", "{outputs}", "",
           "file:{outputs}/artifacts/out", "file:{outputs}/artifacts/out/x", "file:{outputs}/artifacts/loop/x",
           "file://host{outputs}/artifacts/x", "s3://bucket/x", "s3:{outputs}/artifacts/x", "http://127.0.0.1:9/x",
           "dbfs:/x", "runs:/0/x", "models:/m/1", "mlflow-artifacts:{outputs}/artifacts/x", "http://[", "a\0b",
           "file:{outputs}/artifacts/a%00b", "file:{outputs}/artifacts/x?y", "x" * 100_000, None)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "artifacts" / "x").mkdir(parents=True)
    (tmp_path / "artifacts" / "out").symlink_to("/etc")
    (tmp_path / "artifacts" / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("uri", OUTSIDE)
def test_a_place_elsewhere_is_refused(folder, uri):
    with pytest.raises(
        ConfigError, match=r"Run 7 has its artifacts at .*, which is not below .*artifacts: "
    ) as refused:
        artifact_folder(uri and uri.format(outputs=folder), folder, "Run 7")
    assert len(str(refused.value)) < 1000


def test_a_place_below_is_taken(folder):
    for uri in ((folder / "artifacts" / "x").as_uri(), str(folder / "artifacts" / "x"), f"file:{folder}/artifacts/x"):
        assert artifact_folder(uri, folder, "run") == folder / "artifacts" / "x"
    name = folder / "artifacts" / "ä b#?%"
    assert artifact_folder(name.as_uri(), folder, "run") == name
    (folder / "linked").symlink_to(folder)
    assert artifact_folder(f"{folder}/linked/artifacts/x", folder / "linked", "run").is_dir()


def test_an_artifact_is_a_plain_file_of_the_run(folder):
    home = folder / "artifacts" / "x"
    run = SimpleNamespace(info=SimpleNamespace(run_id="7", artifact_uri=home.as_uri()))
    (folder / "artifacts" / "secret").write_text("secret")
    (home / "a.json").write_text("[]")
    (home / "inside.json").symlink_to("a.json")
    (home / "link.json").symlink_to("../secret")
    (home / "self.json").symlink_to("self.json")
    (home / "folder").mkdir()
    assert find_artifact(run, "a.json", folder) == home / "a.json"
    assert find_artifact(run, "inside.json", folder) == home / "inside.json"
    assert find_artifact(run, "none.json", folder) is None
    for name in ("link.json", "../secret", "/etc/passwd", "folder", "..", "/dev/zero", "x" * 5000):
        with pytest.raises(DataError, match="is a link or a path out of the folder") as refused:
            find_artifact(run, name, folder)
        assert len(str(refused.value)) < 1000


def test_the_last_table_is_one_or_the_file_is_named(folder):
    home = folder / "artifacts" / "x"
    run = SimpleNamespace(info=SimpleNamespace(run_id="7", artifact_uri=home.as_uri()))
    client = SimpleNamespace(get_run=lambda run_id: run)
    assert last_table(client, ["7"], "t/*.json", folder) is None
    (home / "t").mkdir()
    (home / "t" / "1.json").write_text('{"columns": ["a"], "data": [[1]], "dtype": "x"}')
    assert last_table(client, ["7"], "t/*.json", folder) == {"columns": ["a"], "data": [[1]]}
    for content in ("", "[]", "{}", "[" * 100_000):
        (home / "t" / "2.json").write_text(content)
        with pytest.raises(DataError, match=r"2\.json: not a table"):
            last_table(client, ["7"], "t/*.json", folder)


def execute(outputs, statement, *values):
    with closing(sqlite3.connect(outputs / "mlflow.db")) as connection, connection:
        connection.execute(statement, values)


def test_nothing_is_written_where_a_strangers_database_points(outputs, tmp_path):
    target = tmp_path / "target"
    uri, artifacts = ensure_database(outputs), outputs / "artifacts"
    logger = TrackedMLFlowLogger(outputs, "demo")
    logger.log_text("kept", "note.txt")
    sweeps = SweepRuns(outputs, "demo", outputs / "locks")
    sweep = sweeps.open_sweep("reward", baseline="none", synthetic=True)
    execute(outputs, "UPDATE runs SET artifact_uri = ?", target.as_uri())
    reopened = TrackedMLFlowLogger(outputs, "demo", run_id=logger.run_id)
    for write in (reopened.start, lambda: sweeps.has_clips(sweep),
                  lambda: sweeps.open_sweep("reward", baseline="none", synthetic=True)):  # fmt: skip
        with pytest.raises(ConfigError, match="which is not below"):
            write()
    execute(outputs, "UPDATE experiments SET artifact_location = ?", target.as_uri())
    with pytest.raises(ConfigError, match=r"MLflow experiment 'demo' has its artifacts at .*target, "):
        ensure_experiment(uri, "demo", artifacts)
    for name in ("..", "."):
        with pytest.raises(ConfigError, match=r"experiment_name=\.\.? has its artifacts at"):
            ensure_experiment(uri, name, artifacts)
    assert not target.exists()


def test_the_server_opens_nothing_elsewhere(outputs, tmp_path):
    TrackedMLFlowLogger(outputs, "demo").log_text("kept", "note.txt")
    assert server_command(outputs, 5000)[1:4] == ["-m", "mlflow", "server"]
    before = (outputs / "mlflow.db").read_bytes()
    gone, there = tmp_path / "gone", tmp_path / "there"
    there.mkdir()
    execute(outputs, "UPDATE runs SET artifact_uri = ?", gone.as_uri())  # of a database that was copied alone
    check_artifact_places(outputs / "mlflow.db")
    for statement in (
        "UPDATE runs SET artifact_uri = ?",
        "UPDATE experiments SET artifact_location = ?",
        "INSERT INTO trace_tags (key, value, request_id) VALUES ('mlflow.artifactLocation', ?, 'a')",
    ):
        for place in (there.as_uri(), str(there), "s3://bucket/x", "http://127.0.0.1:9/x"):
            (outputs / "mlflow.db").write_bytes(before)
            execute(outputs, statement, place)
            with pytest.raises(ConfigError, match=r"mlflow\.db: one of its \w+ has its artifacts at .* not below"):
                server_command(outputs, 5000)


def test_a_frame_is_called_by_a_plain_name(outputs):
    sweeps = SweepRuns(outputs, "demo", outputs / "locks")
    sweep = sweeps.open_sweep("reward", baseline="none", synthetic=True)
    name = "../a\\b c\x1b"
    sweeps.log_clips(sweep, [{"name": name, "subtitle": "", "target": []}], {name: np.zeros((1, 4, 4, 3), np.uint8)})
    files = {path.relative_to(outputs / "artifacts" / "demo").parts[2:] for path in outputs.rglob("*.png")}
    assert files == {("clips", ".._2f_a_5c_b_20_c_1b_-0.png")}
