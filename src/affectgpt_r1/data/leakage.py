"""Find evaluation clips in the training data, by name and by the bytes of their media.

Two names may be one clip, so that media are compared, too: the sizes of all files, then the first bytes where sizes
agree, then the contents where these agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.data.layouts.manifest import ManifestRow, listing, read_table
from affectgpt_r1.data.media_index import MediaState, in_threads
from affectgpt_r1.errors import DataError, OnFault, refuse

_OPENING = 4096
_KNOWN_FILES = frozenset(("track2_train_human.csv", "track2_train_mercaptionplus.csv"))
_KNOWN_NAMES = 548


class SameClip(NamedTuple):
    """Two rows whose media files are the same byte by byte."""

    train: ManifestRow
    evaluation: ManifestRow


def known_overlap(files: Iterable[str]) -> str:
    """Return what is known about names that published label files share, ``""`` for other files.

    >>> known_overlap(["track2_train_human.csv", "track2_train_mercaptionplus.csv"])[:9]
    '548 names'
    """
    if not set(files) >= _KNOWN_FILES:
        return ""
    return f"{_KNOWN_NAMES} names are known to be in both {' and '.join(sorted(_KNOWN_FILES))} of MER2026"


def leaked_names(train_file: Path, names: Iterable[str]) -> list[str]:
    """Return which of ``names`` are in a label file, in order."""
    seen = set(read_table(train_file)["name"])
    return [name for name in names if name in seen]


def check_unseen(
    root: Path, seen_labels: Sequence[str], evaluation: Sequence[ManifestRow], on_fault: OnFault = refuse
) -> None:
    """Refuse evaluation clips that the initial policy was trained on, by the label files ``seen_labels`` in ``root``.

    Raises:
        DataError: A file cannot be used, or names a clip of ``evaluation``.
    """
    for file in seen_labels:
        try:
            _check_unseen(root / file, evaluation)
        except DataError as fault:
            on_fault(fault)


def _check_unseen(path: Path, evaluation: Sequence[ManifestRow]) -> None:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file, which data.seen_labels names as what the initial policy was trained on; "
            "name the label files of that training, or give data.seen_labels=[]"
        )
    if leaked := leaked_names(path, (row.name for row in evaluation)):
        raise DataError(
            f"{len(leaked)} evaluation clips are in {path} (data.seen_labels), on which the initial "
            f"policy was trained: {listing(leaked)}; take them out of the evaluation set",
            items=leaked,
        )


def same_clips(
    root: Path,
    train: Sequence[ManifestRow],
    evaluation: Sequence[ManifestRow],
    media: Mapping[str, MediaState],
) -> list[SameClip]:
    """Return pairs of a training and an evaluation row all of whose ``media`` files, by name, are the same."""
    known: dict[str, tuple[int | bytes, ...]] = {
        row.name: media[row.name].sizes
        for row in (*train, *evaluation)
        if media[row.name].sizes and all(media[row.name].sizes)  # empty files are unreadable, not alike
    }
    train, evaluation = _alike(train, evaluation, known)
    num_files = len(media[train[0].name].sizes) if train else 0
    for digest in (_digest_of_opening, _digest):
        for number in range(num_files):  # one file tells most clips apart

            def digest_of(row: ManifestRow, digest: Callable[[Path], bytes] = digest, number: int = number) -> bytes:
                return digest(media[row.name].files(root, row.name)[number])

            for row, value in in_threads(digest_of, (*train, *evaluation)):
                known[row.name] += (value,)
            train, evaluation = _alike(train, evaluation, known)
    copies = _grouped(evaluation, known)
    # One name in both is :func:`~affectgpt_r1.data.layouts.manifest.check_disjoint`'s to refuse.
    return [SameClip(row, copy) for row in train for copy in copies[known[row.name]] if row.name != copy.name]


def check_content(
    root: Path,
    train: Sequence[ManifestRow],
    evaluation: Sequence[ManifestRow],
    media: Mapping[str, MediaState],
    on_fault: OnFault = refuse,
) -> None:
    """Refuse training clips that are evaluation clips under another name; see :func:`same_clips`.

    Raises:
        DataError: Names the pairs and their rows.
    """
    pairs = same_clips(root, train, evaluation, media)
    if pairs:
        listed = [f"{row.name} (row {row.row}) = {copy.name} (row {copy.row})" for row, copy in pairs]
        on_fault(
            DataError(
                f"{len(pairs)} training clips have the same media as an evaluation clip: {listing(listed)}; "
                "take them out of the training file",
                items=listed,
            )
        )


def _alike(
    train: Iterable[ManifestRow], evaluation: Iterable[ManifestRow], known: Mapping[str, Hashable]
) -> tuple[list[ManifestRow], list[ManifestRow]]:
    """Return rows of either side that agree with some row of the other side in what is known."""
    of_train, of_evaluation = _grouped(train, known), _grouped(evaluation, known)
    shared = [key for key in of_train if key in of_evaluation]
    return [row for key in shared for row in of_train[key]], [row for key in shared for row in of_evaluation[key]]


def _grouped(rows: Iterable[ManifestRow], known: Mapping[str, Hashable]) -> dict[Hashable, list[ManifestRow]]:
    groups: dict[Hashable, list[ManifestRow]] = {}
    for row in rows:
        if row.name in known:
            groups.setdefault(known[row.name], []).append(row)
    return groups


def _digest_of_opening(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_OPENING)).digest()


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
