"""MLflow stores the places of artifacts as absolute paths; this corrects them in a clone that was moved or copied."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

from affectgpt_r1.errors import ConfigError

ARTIFACTS = "artifacts"


def relocate_artifacts(database: Path) -> list[str]:
    """Point the experiments of ``<outputs>/mlflow.db`` at ``<outputs>/artifacts/<experiment>`` where that exists.

    Returns the names of the folders that changed. Raises a ConfigError if the database has to change and cannot.
    """
    home = database.resolve().parent / ARTIFACTS
    with closing(sqlite3.connect(database)) as connection:
        try:
            locations = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError:
            return []  # damaged, or not one of MLflow's: whoever reads it says so
        moved = [str(old) for (old,) in locations if old and _own_folder(str(old), home) not in (None, _path(str(old)))]
        try:
            with connection:
                for old in moved:
                    _repoint(connection, old, (home / _path(old).name).as_uri())
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{database}: the clone was moved, and the new path of its artifacts cannot be written ({error}); end "
                "what uses the database, and make it writable"
            ) from error
    return [_path(old).name for old in moved]


def _repoint(connection: sqlite3.Connection, old: str, new: str) -> None:
    connection.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (new, old))
    for table, column in (("logged_models", "artifact_location"), ("trace_tags", "value")):
        with suppress(sqlite3.OperationalError):  # a table that this version of MLflow does not have
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old) + 1, f"{old}/"),
            )
    connection.execute(
        "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
        (new, len(old) + 1, len(old) + 1, f"{old}/"),
    )


def _own_folder(location: str, home: Path) -> Path | None:
    """Return the folder of an experiment next to the database; None without one or with another form of name."""
    path = _path(location)
    own = home / path.name
    return own if path.parent.name == ARTIFACTS and path.name != ".." and own.is_dir() else None


def _path(location: str) -> Path:
    try:
        return Path(unquote(urlparse(location).path))
    except ValueError:  # a server's, and not a valid URI
        return Path(location)
