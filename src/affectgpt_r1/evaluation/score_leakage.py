"""Scored names that are in the label files of training. Apart from the scores, since its reader needs pandas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from affectgpt_r1.data.leakage import known_overlap, leaked_names


def find_leakage(train: Sequence[Path], targets: Path, scored: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Look for the ``scored`` names of ``targets`` in label files of training.

    Returns:
        The ``names`` by file and what is ``known`` of such files; and lines for the reader.

    Raises:
        DataError: A file cannot be read.
    """
    known = known_overlap(path.name for path in (*train, targets))
    names = {str(path): leaked_names(path, scored) for path in train}
    lines = [f"Beware: {known}."] if known else []
    return {"names": names, "known": known}, [*lines, *(_line(file, names[file], len(scored)) for file in names)]


def _line(file: str, leaked: Sequence[str], num_scored: int) -> str:
    such = f", such as {leaked[0]}: the scores are not of unseen clips" if leaked else ""
    return f"Leakage: {len(leaked)} of {num_scored} scored names are in {file}{such}."
