"""Split label files into training, validation and test rows without a common clip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.data.layouts.annotations import NO_QUESTIONS, QuestionSet, shared_annotations
from affectgpt_r1.data.layouts.manifest import (
    ColumnReader,
    ManifestRow,
    check_disjoint,
    hash_order,
    read_columns,
    read_cues,
    read_manifest,
)
from affectgpt_r1.data.leakage import known_overlap
from affectgpt_r1.data.packed_rows import PackedRows
from affectgpt_r1.errors import ConfigError, DataError, OnFault, refuse
from affectgpt_r1.types import Annotations


@dataclass(frozen=True)
class SplitFiles:
    """Names of the label files in a data folder; None where there is none."""

    train_labels: str
    train_reasons: str | None = None
    validation_labels: str | None = None
    test_labels: str | None = None
    subtitles: str | None = None  # of every set
    cues: str | None = None  # of synthetic clips
    supervised_labels: str | None = None  # of the supervised part of a mixed loss; None: the training clips
    supervised_reasons: str | None = None

    def digest(self, root: Path) -> str:
        """Return the SHA-256 of names and contents of the files."""
        digest = hashlib.sha256()
        for file in filter(None, astuple(self)):
            digest.update(f"{file}\n".encode())
            digest.update(bytes.fromhex(content_digest(root / file)))
        return digest.hexdigest()

    def digests(self, root: Path) -> dict[str, str]:
        """Return the SHA-256 of each file that is named, by its field."""
        return {name: content_digest(root / file) for name, file in asdict(self).items() if file}


class LabelFile(NamedTuple):
    """What a run reads of one split; ``digest`` is the SHA-256 of the file."""

    split: str  # train, validation, test or supervised
    path: Path
    digest: str
    num_clips: int


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a label file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        status = path.stat()
        return _digest_once(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; set the data folder (paths.data) or the file's name"
        ) from error


@cache
def _digest_once(path: Path, *state: int) -> str:
    """Return the SHA-256 of a file in ``state``, which a start asks for several times."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Splits(NamedTuple):
    """Rows of each split; a clip is in one at most, but that clips to train on may be supervised as well."""

    train: Sequence[ManifestRow]
    validation: Sequence[ManifestRow]
    test: Sequence[ManifestRow]
    supervised: Sequence[ManifestRow] = ()

    def rows(self) -> Sequence[ManifestRow]:
        """Return the rows of every split, each clip once."""
        if isinstance(self.train, PackedRows):
            return self.train.joined(*(split for split in self[1:] if isinstance(split, PackedRows)))
        trained = {row.name for row in self.train} if self.supervised else set()
        supervised = [row for row in self.supervised if row.name not in trained]
        return [*self.train, *self.validation, *self.test, *supervised]


def evaluated_rows(splits: Splits, split: str, num_clips: int | None) -> list[ManifestRow]:
    """Return the clips of the ``test`` or ``validation`` split, in their file's order.

    With ``num_clips`` keep so many, chosen by name and thus the same ones for every policy.

    Raises:
        ConfigError: ``split`` or ``num_clips`` cannot be used.
    """
    if split not in ("test", "validation"):
        raise ConfigError(f"split={split}: give test or validation")
    if num_clips is not None and num_clips < 1:
        raise ConfigError(f"num_clips={num_clips}: give at least 1, or null for every clip of the split")
    rows = splits.test if split == "test" else splits.validation
    chosen = {row.name for row in hash_order(rows, salt="evaluation")[:num_clips]}
    return [row for row in rows if row.name in chosen]


def read_splits(
    root: Path,
    files: SplitFiles,
    *,
    val_fraction: float,
    subset: int | None,
    questions: QuestionSet = NO_QUESTIONS,
    on_fault: OnFault = refuse,
) -> Splits:
    """Read the label files.

    Args:
        root: Data folder.
        files: Files to read.
        val_fraction: Fraction of the training clips, chosen by name, that validates where no file is given.
        subset: Keep this many training clips, chosen by name.
        questions: What the training clips may be asked.
        on_fault: See :data:`~affectgpt_r1.errors.OnFault`.

    Raises:
        DataError: A file cannot be used, splits overlap, or nothing is left to train on.
    """
    read = cache(read_columns)  # the subtitles of all splits are in one file
    train, shared = _read_training(root, files, questions, on_fault, read)
    supervised: list[ManifestRow] = []
    if files.supervised_labels:
        second = replace(files, train_labels=files.supervised_labels, train_reasons=files.supervised_reasons)
        supervised, _ = _read_training(root, second, questions, on_fault, read)
    num_read = len(train)

    def evaluated(labels: str | None) -> list[ManifestRow]:
        if not labels:
            return []
        rows = read_manifest(root, labels, subtitles=files.subtitles, questions=questions, on_fault=on_fault, read=read)
        return [_annotated(row, shared) for row in rows]

    test, validation = evaluated(files.test_labels), evaluated(files.validation_labels)
    if not files.validation_labels:
        num_held_back = round(val_fraction * len(train))
        ordered = hash_order(train, salt="validation")
        validation, train = ordered[:num_held_back], ordered[num_held_back:]
    named = (files.train_labels, files.validation_labels, files.test_labels, files.supervised_labels)
    known = known_overlap(filter(None, named))
    pairs = [(train, validation), (train, test), (validation, test), (supervised, validation), (supervised, test)]
    for first, other in pairs:
        check_disjoint(first, other, known, on_fault)
    if subset is not None:
        train = hash_order(train, salt="subset")[:subset]
    if num_read and not train:
        on_fault(DataError(f"{root / files.train_labels}: no clip is left to train on; lower data.val_fraction"))
    return Splits(train, validation, test, supervised)


def _read_training(
    root: Path, files: SplitFiles, questions: QuestionSet, on_fault: OnFault, read: ColumnReader
) -> tuple[list[ManifestRow], Annotations]:
    """Return the training clips, and what their file adds to the questions of every clip."""
    rows = read_manifest(
        root,
        files.train_labels,
        reasons=files.train_reasons,
        subtitles=files.subtitles,
        empty_as_neutral=True,
        questions=questions,
        answers_all=True,
        on_fault=on_fault,
        read=read,
    )
    labels, annotations = [row.labels for row in rows], [row.annotations for row in rows]
    shared = shared_annotations(root / files.train_labels, labels, annotations, questions, on_fault)
    return [_annotated(row, shared) for row in rows], shared


def _annotated(row: ManifestRow, shared: Annotations) -> ManifestRow:
    return replace(row, annotations={**row.annotations, **shared}) if shared else row


def read_split_cues(path: Path, splits: Splits) -> dict[str, dict[str, float]]:
    """Read recorded cues and check that they cover every split.

    Raises:
        DataError: The file cannot be used, or lacks a clip.
    """
    cues = read_cues(path)
    lacking = [row.name for row in splits.rows() if row.name not in cues]
    if lacking:
        raise DataError(f"{path}: has no row for {len(lacking)} clips, the first is {lacking[0]}")
    return cues
