"""Set KILLED on MLflow runs that say RUNNING without a process: one that is killed cannot write its own status.

A process that trains, evaluates or leads a sweep holds a file lock from before its MLflow run starts until its status
is written; the system drops the lock with the process. A run's tags name the lock, the process and its machine.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"  # in a run's folder
LOCK_TAG, PROCESS_TAG = "affectgpt.lock", "affectgpt.process"


def process_tags(lock: Path, outputs: Path) -> dict[str, str]:
    """Return the tags of a run that this process starts under ``lock``."""
    # Relative, for the outputs folder may be moved.
    path = os.path.relpath(lock.absolute(), outputs.absolute())
    return {LOCK_TAG: path, PROCESS_TAG: f"{os.getpid()}@{socket.gethostname()}"}


def mark_killed(client: Any, outputs: Path, own_run: str = "", own_lock: Path | None = None) -> list[str]:
    """Set KILLED on every run that says RUNNING and whose process is gone; return their ids.

    A run of another machine stays as it is unless this process holds its lock: on a network file system a lock that is
    free here may be held there, and a process id says nothing. Starting that run again, or any command on its machine,
    corrects it. A run of an older version, which names no lock, stays, too.

    Args:
        client: Of MLflow.
        outputs: The folder of the database.
        own_run: Id of this process's run.
        own_lock: The lock that this process holds; any other run that names it has ended.
    """
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    killed = []
    for run in _running(client, experiments):
        lock, process = (run.data.tags.get(tag, "") for tag in (LOCK_TAG, PROCESS_TAG))
        if run.info.run_id == own_run or not lock:
            continue
        path = Path(os.path.normpath(outputs.absolute() / lock))
        with _is_dead(path, process, is_own=own_lock is not None and path == own_lock.absolute()) as dead:
            # Asked again under the lock: it may have ended since.
            if dead and client.get_run(run.info.run_id).info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
                log.warning("MLflow run %s had lost its process (%s): KILLED", run.info.run_name, process)
                killed.append(str(run.info.run_id))
    return killed


def _running(client: Any, experiments: list[str]) -> Iterator[Any]:
    token = None
    while experiments:
        page = client.search_runs(experiments, "attributes.status = 'RUNNING'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _is_dead(lock: Path, process: str, *, is_own: bool) -> Iterator[bool]:
    """Yield whether a run's process is gone; during the block no other process can resume the run."""
    pid, _, host = process.partition("@")
    if is_own or host != socket.gethostname():
        yield is_own
        return
    try:
        # Read-only and never created: a stranger's database could name any file.
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:  # the folder was removed
        yield pid.isdigit() and not Path(f"/proc/{pid}").exists()
        return
    except OSError:
        yield False
        return
    try:
        yield _is_free(descriptor)
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Take a shared lock, which other processes that only ask may hold, too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or not a file that can be locked
        return False
    return True
