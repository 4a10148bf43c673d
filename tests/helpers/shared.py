"""Folders that the workers of pytest-xdist share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker to ask for it fills by ``make``; the others wait. Nobody may change it."""
    is_worker = tmp_path_factory.getbasetemp().name.startswith("popen-")
    root = tmp_path_factory.getbasetemp().parent if is_worker else tmp_path_factory.getbasetemp()
    folder, done = root / f"shared_{name}", root / f"shared_{name}.done"
    with FileLock(root / f"shared_{name}.lock"):
        if not done.exists():
            folder.mkdir()  # fails where another worker failed half-way: its error is the one to read
            make(folder)
            done.touch()
    return folder
