"""Where a run's artifacts may be: below the folder next to the database, and nowhere else.

A database that somebody else made may name any place: a folder of this machine, or a server that MLflow would ask.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.tracking.relocate_artifacts import ARTIFACTS

_LARGEST_BYTES = 1 << 28
_PLACES = {
    "experiments": "SELECT artifact_location FROM experiments",
    "runs": "SELECT artifact_uri FROM runs",
    "logged models": "SELECT artifact_location FROM logged_models",
    "model versions": "SELECT source FROM model_versions UNION SELECT storage_location FROM model_versions",
    "traces": "SELECT value FROM trace_tags WHERE key = 'mlflow.artifactLocation'",
}
_SHOWN_CHARACTERS = 200


def artifact_folder(uri: str | None, outputs: Path, owner: str) -> Path:
    """Return the local folder of an artifact URI.

    Args:
        uri: As the database has it; it may be NULL there.
        outputs: The folder that holds the database.
        owner: Whose artifacts they are, for the message.

    Raises:
        ConfigError: The folder is not below ``<outputs>/artifacts``, symbolic links followed.
    """
    path = _local_path(uri)
    home = outputs.resolve() / ARTIFACTS
    try:
        is_below = path is not None and ".." not in path.parts and home in path.resolve().parents
    except (OSError, RuntimeError):  # a link to itself
        is_below = False
    if path is None or not is_below:
        shown = str(uri)[:_SHOWN_CHARACTERS]
        raise ConfigError(
            f"{owner} has its artifacts at {shown}, which is not below {home}: nothing is read or written there. "
            f"If they are yours, copy them to {home}, or choose another experiment_name="
        )
    return path


def find_artifact(run: Any, name: str, outputs: Path) -> Path | None:
    """Return a run's artifact, None if it has none of this name.

    Args:
        run: The MLflow run.
        name: Path below the run's artifacts.
        outputs: The folder that holds the database.

    Raises:
        DataError: The name leads out of the run's artifacts, or is of something that is not a plain file.
    """
    folder = artifact_folder(run.info.artifact_uri, outputs, f"MLflow run {run.info.run_id}")
    file = folder / name
    try:
        if not file.exists():
            return None
        if folder.resolve() in file.resolve().parents and file.is_file() and file.stat().st_size <= _LARGEST_BYTES:
            return file
    except (OSError, RuntimeError, ValueError):  # a link to itself; a name that no file can have
        pass
    raise DataError(
        f"{folder}: its artifact {name[:_SHOWN_CHARACTERS]!r} is a link or a path out of the folder, above "
        f"{_LARGEST_BYTES >> 20} MiB, or not a plain file; it is not read"
    )


def last_table(client: Any, run_ids: Iterable[str], pattern: str, outputs: Path) -> dict[str, Any] | None:
    """Return ``data`` (the rows) and ``columns`` of the last table that runs logged, None if they logged none.

    Args:
        client: MLflow's.
        run_ids: In order of time.
        pattern: Of the table's path, such as ``completions/*.json``; of several, the last by name counts.
        outputs: The folder that holds the database.
    """
    for run in map(client.get_run, reversed(list(run_ids))):
        folder = artifact_folder(run.info.artifact_uri, outputs, f"MLflow run {run.info.run_id}")
        for name in sorted((file.relative_to(folder).as_posix() for file in folder.glob(pattern)), reverse=True):
            file = find_artifact(run, name, outputs)
            try:
                table = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
                return {"data": table["data"], "columns": table["columns"]}
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise DataError(f"{file}: not a table ({str(error)[:_SHOWN_CHARACTERS]}); delete its run") from error
    return None


def check_artifact_places(database: Path) -> None:
    """Check every place that a database names before MLflow's server gets it, which opens whatever it is asked for.

    A folder that does not exist may be named: a database may be copied without its artifacts.

    Raises:
        ConfigError: A place is on a server, or on this machine outside of the database's folder.
    """
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        for owners, query in _PLACES.items():
            places: list[tuple[Any]] = []
            with suppress(sqlite3.DatabaseError):  # a table that this version of MLflow does not have
                places = connection.execute(query).fetchall()
            for (place,) in places:
                uri = str(place or "")
                # models:/ and runs:/ name rows of this database, whose places are checked as well.
                if uri and not uri.startswith(("models:/", "runs:/")) and not _is_nowhere(uri):
                    artifact_folder(uri, database.parent, f"{database}: one of its {owners}")


def _is_nowhere(uri: str) -> bool:
    path = _local_path(uri)
    try:
        return path is not None and not path.exists()
    except OSError:  # such as a folder without read permission
        return False


def _local_path(uri: str | None) -> Path | None:
    """Return the path of a ``file:`` URI or a bare path; None for any other URI."""
    if uri is None or "\0" in unquote(uri):
        return None
    try:
        parts = urlsplit(uri)
        path = Path(unquote(parts.path))
    except ValueError:
        return None
    is_local = parts.scheme in ("", "file") and parts.netloc in ("", "localhost") and not parts.query + parts.fragment
    return path if is_local else None
