"""MLflow stores where artifacts lie as absolute paths; a clone that was moved or copied takes its own along."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

from affectgpt_r1.errors import ConfigError

ARTIFACTS = "artifacts"


def follow_artifacts(database: Path) -> list[str]:
    """Point the experiments of a database at the artifacts beside it, where these are there and it points elsewhere.

    Args:
        database: ``<outputs>/mlflow.db``, whose artifacts lie in ``<outputs>/artifacts/<experiment>``.

    Returns:
        Names of the folders that were set anew; none in a clone that stayed where it was.

    Raises:
        ConfigError: The database would have to change, and cannot.
    """
    home = database.resolve().parent / ARTIFACTS
    with closing(sqlite3.connect(database)) as connection:
        try:
            found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError:
            return []  # damaged, or none of MLflow's: whoever reads it says so
        moved = [str(old) for (old,) in found if old and _own_folder(str(old), home) not in (None, _path(str(old)))]
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
    connection.execute(
        "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
        (new, len(old) + 1, len(old) + 1, f"{old}/"),
    )


def _own_folder(location: str, home: Path) -> Path | None:
    """The folder of an experiment beside the database; None if there is none, or it is no folder of this kind."""
    path = _path(location)
    own = home / path.name
    return own if path.parent.name == ARTIFACTS and path.name != ".." and own.is_dir() else None


def _path(location: str) -> Path:
    try:
        return Path(unquote(urlparse(location).path))
    except ValueError:  # of a server, and not even a URI
        return Path(location)
