"""Evaluation clips that stand in training data: by name, and by the bytes of their media.

Names are compared where label files are read. Two names may still be one clip, so that media are compared, too: the
sizes of all files, then the opening bytes where sizes agree, then the contents where these agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.data.layout import media_files
from affectgpt_r1.data.manifest import ManifestRow, read_table
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import Modality, Visual

_OPENING = 4096
_LISTED_AT_MOST = 5
_KNOWN_FILES = frozenset(("track2_train_human.csv", "track2_train_mercaptionplus.csv"))
_KNOWN_NAMES = 548


class SameClip(NamedTuple):
    """Two rows whose media files are the same byte by byte."""

    train: ManifestRow
    evaluation: ManifestRow


def known_overlap(files: Iterable[str]) -> str:
    """What is known about names that published label files share, ``""`` for any other files.

    >>> known_overlap(["track2_train_human.csv", "track2_train_mercaptionplus.csv"])[:9]
    '548 names'
    """
    if not set(files) >= _KNOWN_FILES:
        return ""
    return f"{_KNOWN_NAMES} names are known to stand in both {' and '.join(sorted(_KNOWN_FILES))} of MER2026"


def leaked_names(train_file: Path, names: Iterable[str]) -> list[str]:
    """Which of ``names`` stand in a label file, in order.

    Args:
        train_file: CSV file with a ``name`` column.
        names: Of evaluation clips.

    Raises:
        DataError: If the file cannot be used.
    """
    seen = set(read_table(train_file)["name"])
    return [name for name in names if name in seen]


def check_unseen(root: Path, seen_labels: Sequence[str], evaluation: Sequence[ManifestRow]) -> None:
    """Refuse evaluation clips on which the initial policy was trained.

    Args:
        root: Data folder.
        seen_labels: Label files in ``root`` that it was trained on.
        evaluation: Rows of the validation and test sets.

    Raises:
        DataError: A file cannot be used, or names a clip of ``evaluation``.
    """
    for file in seen_labels:
        if leaked := leaked_names(root / file, (row.name for row in evaluation)):
            raise DataError(
                f"{len(leaked)} evaluation clips stand in {root / file} (data.seen_labels), on which the initial "
                f"policy was trained: {_some(leaked)}; take them out of the evaluation set"
            )


def same_clips(
    root: Path,
    train: Sequence[ManifestRow],
    evaluation: Sequence[ManifestRow],
    modalities: Sequence[Modality],
    visual: Visual,
) -> list[SameClip]:
    """Pairs of a training and an evaluation row whose media are the same.

    Args:
        root: Data folder; every row has its media there.
        train: Training rows.
        evaluation: Rows of another split.
        modalities: Modalities that are on; all files that they read must agree.
        visual: What the video modality reads.
    """

    def files(row: ManifestRow) -> list[Path]:
        return media_files(root, row.name, modalities, visual)

    def sizes(row: ManifestRow) -> tuple[int, ...] | None:
        found = tuple(path.stat().st_size for path in files(row))
        return found if found and all(found) else None  # empty files are unreadable, not alike

    def openings(row: ManifestRow) -> tuple[bytes, ...]:
        return tuple(_opening(path) for path in files(row))

    def contents(row: ManifestRow) -> bytes:
        return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files(row))

    for key in (sizes, openings, contents):
        train, evaluation = _alike(train, evaluation, key)
    of_contents = _grouped(evaluation, contents)
    return [SameClip(row, other) for row in train for other in of_contents[contents(row)]]


def check_content(
    root: Path,
    train: Sequence[ManifestRow],
    evaluation: Sequence[ManifestRow],
    modalities: Sequence[Modality],
    visual: Visual,
) -> None:
    """Refuse training clips that are evaluation clips under another name; see :func:`same_clips`.

    Raises:
        DataError: Names the pairs and their rows.
    """
    pairs = same_clips(root, train, evaluation, modalities, visual)
    if pairs:
        listed = [f"{one.name} (row {one.row}) = {other.name} (row {other.row})" for one, other in pairs]
        raise DataError(
            f"{len(pairs)} training clips have the same media as an evaluation clip: {_some(listed)}; "
            "take them out of the training file"
        )


def _alike(
    train: Sequence[ManifestRow], evaluation: Sequence[ManifestRow], key: Callable[[ManifestRow], Hashable]
) -> tuple[list[ManifestRow], list[ManifestRow]]:
    """Rows of either side whose key some row of the other side has, too; a key of None is nobody's."""
    of_train, of_evaluation = _grouped(train, key), _grouped(evaluation, key)
    shared = [found for found in of_train if found is not None and found in of_evaluation]
    return [row for found in shared for row in of_train[found]], [
        row for found in shared for row in of_evaluation[found]
    ]


def _grouped(rows: Iterable[ManifestRow], key: Callable[[ManifestRow], Hashable]) -> dict[Hashable, list[ManifestRow]]:
    groups: dict[Hashable, list[ManifestRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _opening(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_OPENING)


def _some(items: Collection[str]) -> str:
    rest = len(items) - _LISTED_AT_MOST
    return ", ".join(list(items)[:_LISTED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")
