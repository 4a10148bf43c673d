"""The MLflow database of an outputs folder, created once however many processes start at the same time.

Processes that create one SQLite database together corrupt it. So it is made under a file lock as a temporary
file and renamed when complete: a process that dies half-way leaves none.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.files import remove_partial, replacing
from affectgpt_r1.tracking.artifacts import artifact_folder
from affectgpt_r1.tracking.dashboard import experiment_tags
from affectgpt_r1.tracking.relocate_artifacts import relocate_artifacts

log = logging.getLogger(__name__)

DATABASE_NAME = "mlflow.db"
_SQLITE_HEADER = b"SQLite format 3\x00"
_LOCK_SECONDS = 120.0


def ensure_database(folder: Path) -> str:
    """Return the tracking URI of ``<folder>/mlflow.db``, creating the database if there is none.

    Raises:
        ConfigError: If the file is damaged or not an SQLite database, or the folder cannot be written or locked.
    """
    database = folder.resolve() / DATABASE_NAME
    if is_database(database):
        check_intact(database)
    else:
        with locked(database):
            if not is_database(database):
                _create(database)
    relocate_artifacts(database)
    return _uri(database)


def ensure_experiment(uri: str, name: str, artifact_root: Path) -> str:
    """Return the id of experiment ``name``, creating it with an explicit artifact folder or undeleting it.

    Args:
        uri: What :func:`ensure_database` returned.
        name: The experiment's name.
        artifact_root: Folder in which the experiment's artifacts get a folder.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    with locked(Path(uri.removeprefix("sqlite:///"))):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            location = (artifact_root.resolve() / re.sub(r"[^\w.-]+", "_", name)).as_uri()
            artifact_folder(location, artifact_root.parent, f"experiment_name={name}")
            return str(client.create_experiment(name, artifact_location=location, tags=experiment_tags()))
        artifact_folder(experiment.artifact_location, artifact_root.parent, f"MLflow experiment {name!r}")
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)


def _uri(database: Path) -> str:
    return f"sqlite:///{database}"


def is_database(path: Path) -> bool:
    """Return whether there is a database; an absent or empty file is not one, any other file is a ConfigError."""
    try:
        with path.open("rb") as file:
            header = file.read(len(_SQLITE_HEADER))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(
            f"{path}: the MLflow database cannot be read ({error.strerror}); check its permissions"
        ) from error
    if header and header != _SQLITE_HEADER:
        raise ConfigError(f"{path}: this is not an SQLite database; move it away, or log with `logger=csv`")
    return bool(header)


def check_intact(database: Path) -> None:
    """Read all of the database once; a ConfigError says if it is damaged or in use."""
    remedy = "restore it from a copy, or move it away to log into a new one: checkpoints and run.json do not need it"
    try:
        # Not read-only: SQLite must roll back what a killed process left half written.
        uri = f"{database.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)) as connection:
            result = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:  # damage also comes as "no such table" and the like
        raise ConfigError(
            f"{database}: the MLflow database cannot be read ({error}); end what uses it, or {remedy}"
        ) from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{database}: the MLflow database is damaged ({error}); {remedy}") from error
    if result != "ok":
        raise ConfigError(f"{database}: the MLflow database is damaged ({' '.join(result.split())}); {remedy}")


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the database's lock, for what two processes must not do at once."""
    lock_path = database.with_name(f".{database.name}.lock")
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path, timeout=_LOCK_SECONDS)
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"{lock_path}: another process has held this lock for {_LOCK_SECONDS:.0f} s; "
            "end it, or log with `logger=csv`"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{database.parent}: the outputs folder cannot be written ({error.strerror}); "
            "choose another by `paths.outputs=`"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _create(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if database.exists():
        log.warning("%s was empty: what runs logged there is lost; their artifacts and folders are not", database)
    remove_partial(database.parent)  # of a process that was killed here
    with replacing(database) as partial:
        store = SqlAlchemyStore(_uri(partial), (database.parent / "artifacts").as_uri())
        store.engine.dispose()
