"""Folders of prediction files, one file per data set; of checkpoints, each such a folder; or AffectGPT's own tree.

AffectGPT's tree has ``results-SET/MODEL/CHECKPOINT.npz`` (answers), ``CHECKPOINT-openset.npz`` (their labels) and
``CHECKPOINT-openset-sentiment.npz`` (the labels' sentiment).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.errors import DataError

_SUFFIXES = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".npz")
_LABELS, _SENTIMENT = "-openset", "-sentiment"
_TREE = "results-"
_PUBLISHED_NAMES = {"iemocapfour": "iemocap"}


class SetFiles(NamedTuple):
    """Predictions of one set by one checkpoint."""

    answers: Path  # labels, or free text where there is no file of labels
    sentiment: Path | None = None  # positive, negative or neutral for each clip


def prediction_files(folder: Path, sets: Collection[str]) -> dict[str, dict[str, SetFiles]]:
    """Find the prediction files of each checkpoint by set; its name is ``""`` where they are in ``folder`` itself.

    Args:
        folder: Holds ``SET.csv``, ``SET.jsonl`` or ``SET.npz`` (or ``SET-openset.npz``), with predictions of one
            checkpoint, and may hold ``SET-sentiment.csv`` and the like; or a folder of such files for each of several
            checkpoints; or AffectGPT's tree. Other files are passed over.
        sets: Names that a set may have.

    Raises:
        DataError: There are no such files, or some in several places; a file names no set, or a set that has one
            already; or a checkpoint lacks a set that another one has.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of predictions")
    below = _published_tree(folder, sets)
    if not below:
        own = _files_by_set(folder, sets)
        below = {part.name: _files_by_set(part, sets) for part in sorted(folder.iterdir()) if part.is_dir()}
        below = {name: files for name, files in below.items() if files}
        if own and below:
            raise DataError(f"{folder}: has predictions both of its own and in {', '.join(below)}; keep one of the two")
        if own:
            return {"": own}
    if not below:
        raise DataError(
            f"{folder}: has no predictions SET.csv, SET.jsonl or SET.npz, SET being {', '.join(sets)}, "
            f"and no folders {_TREE}SET"
        )
    every = set().union(*below.values())
    for name, files in below.items():
        if lacking := sorted(every - set(files)):
            raise DataError(f"{folder / name}: has no predictions for {', '.join(lacking)}, as another checkpoint has")
    return below


def _files_by_set(folder: Path, sets: Collection[str]) -> dict[str, SetFiles]:
    answers: dict[str, Path] = {}
    sentiments: dict[str, Path] = {}
    for path in _files(folder):
        stem = path.stem.removesuffix(_SENTIMENT)
        name = _set_name(stem.removesuffix(_LABELS), path, sets)
        files, what = (sentiments, "hold the sentiment of") if stem != path.stem else (answers, "predict")
        if name in files:
            raise DataError(f"{folder}: {files[name].name} and {path.name} both {what} {name}; keep one")
        files[name] = path
    if alone := sorted(set(sentiments) - set(answers)):
        raise DataError(f"{sentiments[alone[0]]}: sentiment without the predictions {alone[0]}.csv or the like")
    return {name: SetFiles(path, sentiments.get(name)) for name, path in answers.items()}


def _published_tree(folder: Path, sets: Collection[str]) -> dict[str, dict[str, SetFiles]]:
    """Return the files of AffectGPT's tree by checkpoint; nothing where ``folder`` is not such a tree."""
    found: dict[tuple[str, str], dict[str, SetFiles]] = {}
    for results in sorted(folder.glob(f"{_TREE}*")):
        if not results.is_dir():
            continue
        name = _set_name(results.name.removeprefix(_TREE), results, sets)
        for model in sorted(results.iterdir()):
            stems = {path.stem: path for path in _files(model)} if model.is_dir() else {}
            for stem, path in stems.items():
                checkpoint = stem.removesuffix(_SENTIMENT).removesuffix(_LABELS)
                if stem == checkpoint or checkpoint not in stems:
                    labels = stems.get(checkpoint + _LABELS, path)
                    files = SetFiles(labels, stems.get(checkpoint + _LABELS + _SENTIMENT))
                    found.setdefault((model.name, checkpoint), {})[name] = files
    models = {model for model, _ in found}
    return {
        checkpoint if len(models) == 1 else f"{model}/{checkpoint}": files
        for (model, checkpoint), files in found.items()
    }


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in _SUFFIXES)


def _set_name(name: str, path: Path, sets: Collection[str]) -> str:
    name = _PUBLISHED_NAMES.get(name, name)
    if name not in sets:
        nearest = difflib.get_close_matches(name, sets, n=1, cutoff=0.0)[0]
        raise DataError(f"{path}: {name!r} is not a data set; the nearest is {nearest!r} of {', '.join(sets)}")
    return name
