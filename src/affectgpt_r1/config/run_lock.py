"""One process at a time works in a run's folder; the others are told which one it is."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.files import remove_partial, write_text
from affectgpt_r1.io.untrusted_files import read_json
from affectgpt_r1.tracking.killed_runs import LOCK_FILE

OWNER_FILE = ".owner.json"

_SECONDS_TO_ASK = 0.5  # another process may hold the lock for a moment, to find out whether this one lives


@contextmanager
def owned(folder: Path, remedy: str = "choose another folder by paths.run= or paths.outputs=") -> Iterator[None]:
    """Hold a folder's lock, which the system releases when this process ends, however it ends.

    ``remedy`` says what other than waiting helps.

    Raises:
        ConfigError: Another process has it, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        _acquire(lock, folder, remedy)
    except OSError as error:
        raise ConfigError(f"{folder}: it cannot be written ({error.strerror}); {remedy}") from error
    try:
        for part in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            if part == folder or not (part / LOCK_FILE).exists():  # else it is another run's
                remove_partial(part)
        _write_owner(folder)
        yield
    finally:
        (folder / OWNER_FILE).unlink(missing_ok=True)
        lock.release()


def owner_of(folder: Path) -> str | None:
    """Say who has a folder's lock; None if nobody does."""
    if not (folder / LOCK_FILE).is_file():
        return None
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _owner_in_words(_read_owner(folder))
    except OSError:  # a folder that may only be read, such as a colleague's: its owner cannot be asked
        return None
    lock.release()
    return None


def _acquire(lock: FileLock, folder: Path, remedy: str) -> None:
    try:
        lock.acquire(timeout=_SECONDS_TO_ASK)
    except Timeout:
        owner = _owner_in_words(_read_owner(folder))
        raise ConfigError(f"{folder} is in use by {owner}; wait for it to end, or {remedy}") from None


def _write_owner(folder: Path) -> None:
    started = datetime.now().isoformat(sep=" ", timespec="seconds")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": started, "command": shlex.join(sys.argv)}
    write_text(folder / OWNER_FILE, json.dumps(owner) + "\n", flush=False)


def _read_owner(folder: Path) -> dict[str, Any]:
    try:
        owner = read_json(folder / OWNER_FILE)
    except (FileNotFoundError, ValueError):  # it has just taken the lock, and is about to write
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner_in_words(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('started')}"
