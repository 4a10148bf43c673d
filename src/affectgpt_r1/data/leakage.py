"""Evaluation clips that stand in training data: by name, and by the bytes of their media.

Names are compared where label files are read. Two names may still be one clip, so that media files of the same size are
compared by content, too; sizes are looked up for every clip, contents read only where sizes agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from affectgpt_r1.data.layout import media_files
from affectgpt_r1.data.manifest import ManifestRow, read_table
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import Modality, Visual

_Key = TypeVar("_Key")
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

    def sizes(row: ManifestRow) -> tuple[int, ...]:
        return tuple(path.stat().st_size for path in files(row))

    def digest(row: ManifestRow) -> bytes:
        return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files(row))

    of_size = _grouped((sizes(row), row) for row in evaluation)
    # Empty files are unreadable, not alike; no modality but text has no files.
    alike = [(row, size) for row in train if (size := sizes(row)) and all(size) and size in of_size]
    of_digest = _grouped((digest(row), row) for size in {size for _, size in alike} for row in of_size[size])
    return [SameClip(row, other) for row, _ in alike for other in of_digest.get(digest(row), ())]


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


def _grouped(pairs: Iterable[tuple[_Key, ManifestRow]]) -> dict[_Key, list[ManifestRow]]:
    groups: dict[_Key, list[ManifestRow]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return groups


def _some(items: Collection[str]) -> str:
    rest = len(items) - _LISTED_AT_MOST
    return ", ".join(list(items)[:_LISTED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")
