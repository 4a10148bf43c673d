"""Folders of prediction files, one file per data set; or of checkpoints, each such a folder."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from affectgpt_r1.errors import DataError

_SUFFIXES = (".csv", ".jsonl", ".npz")
_SUBMISSION = "-openset"


def prediction_files(folder: Path, sets: Collection[str]) -> dict[str, dict[str, Path]]:
    """Find the prediction files of each checkpoint by set; its name is ``""`` where they are in ``folder`` itself.

    Args:
        folder: Holds ``SET.csv``, ``SET.jsonl`` or ``SET.npz`` (or ``SET-openset.npz``), with predictions of one
            checkpoint; or a folder of such files for each of several checkpoints. Other files are passed over.
        sets: Names that a set may have.

    Raises:
        DataError: There are no such files, or some in both places; a file names no set, or a set that has one already;
            or a checkpoint lacks a set that another one has.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of predictions")
    own = _files_by_set(folder, sets)
    below = {part.name: _files_by_set(part, sets) for part in sorted(folder.iterdir()) if part.is_dir()}
    below = {name: files for name, files in below.items() if files}
    if own and below:
        raise DataError(f"{folder}: has predictions both of its own and in {', '.join(below)}; keep one of the two")
    if own:
        return {"": own}
    if not below:
        raise DataError(f"{folder}: has no predictions SET.csv, SET.jsonl or SET.npz, SET being {', '.join(sets)}")
    every = set().union(*below.values())
    for name, files in below.items():
        if lacking := sorted(every - set(files)):
            raise DataError(f"{folder / name}: has no predictions for {', '.join(lacking)}, as another checkpoint has")
    return below


def _files_by_set(folder: Path, sets: Collection[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
            continue
        name = path.stem.removesuffix(_SUBMISSION)
        if name not in sets:
            nearest = difflib.get_close_matches(name, sets, n=1, cutoff=0.0)[0]
            raise DataError(f"{path}: {name!r} is not a data set; the nearest is {nearest!r} of {', '.join(sets)}")
        if name in files:
            raise DataError(f"{folder}: {files[name].name} and {path.name} both predict {name}; keep one")
        files[name] = path
    return files
