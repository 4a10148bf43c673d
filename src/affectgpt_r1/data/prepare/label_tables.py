"""Read what people's own tables say of their clips: labels, reasons, what is said, speakers, splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from affectgpt_r1.data.prepare.find_clips import Clip, ClipFinder
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.metrics.prediction_rows import LABELS, NAME, SYNONYMS, RowReader

SUBTITLE, SPEAKER, SPLIT = "subtitle", "speaker", "split"
# In order of preference; several columns of labels are refused instead.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    **SYNONYMS,
    SUBTITLE: ("subtitles", "english", "transcript", "transcription", "text", "sentence", "utterance", "said",
               "spoken", "chinese"),
    SPEAKER: ("speaker_id", "speakers", "group", "subject", "subject_id", "actor", "actor_id", "participant",
              "participant_id", "person", "session", "dialogue_id"),
    SPLIT: ("set", "partition", "subset", "splits"),
}  # fmt: skip
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".json", ".jsonl")

_FROM_EXCEL = re.compile("[;|\n\u3001\uff0c\uff1b]+")  # between labels, apart from commas; the last are Chinese


@dataclass
class Facts:
    """What tables say of one clip, and in which file and row each was found."""

    values: dict[str, str] = field(default_factory=dict)  # by role; labels joined by commas
    places: dict[str, str] = field(default_factory=dict)


@dataclass
class Tables:
    """What all tables of a folder say."""

    facts: dict[str, Facts] = field(default_factory=dict)  # by clip name
    used: list[str] = field(default_factory=list)  # a line for each table: which column was read as what
    ignored: list[str] = field(default_factory=list)  # and why
    unmatched: list[str] = field(default_factory=list)  # rows whose clip is not there


class _Table(NamedTuple):
    path: Path
    header: tuple[str, ...]
    rows: list[tuple[str, tuple[str, ...]]]  # place, cells


def find_tables(data: Path, output: Path | None) -> list[Path]:
    """Return files below ``data`` that may be tables of labels; hidden ones and Excel's locks are left out."""
    tables = []
    for folder, folders, files in os.walk(data):
        here = Path(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (output is None or here / name != output)
        )
        tables += [
            here / name
            for name in sorted(files)
            if Path(name).suffix.lower() in TABLE_SUFFIXES and not name.startswith((".", "~$"))
        ]
    return tables


def read_tables(
    clips: Sequence[Clip], given: Sequence[Path], found: Sequence[Path], columns: Mapping[str, str]
) -> Tables:
    """Read tables, and find the clip of each row.

    Args:
        clips: All clips.
        given: Tables that must be readable.
        found: Tables that are ignored, with the reason, where they are something else.
        columns: What roles (keys of :data:`COLUMNS`) are called, some or all; a table without a column named here for
            a role is searched for its synonyms.

    Raises:
        DataError: A given table cannot be read; a row may mean several clips; two rows contradict each other.
    """
    tables, finder = Tables(), ClipFinder(clips)
    for path in given:
        _add(tables, path, finder, columns)
    for path in found:
        try:
            table = _read(path)
            _roles(table, finder, columns)
        except DataError as error:
            tables.ignored.append(str(error))
            continue
        _add(tables, path, finder, columns)
    return tables


def _add(tables: Tables, path: Path, finder: ClipFinder, columns: Mapping[str, str]) -> None:
    table = _read(path)
    roles = _roles(table, finder, columns)
    of_file = split_of_text(path.stem) if SPLIT not in roles else None
    num_read = 0
    for place, cells in table.rows:
        name = cells[roles[NAME]].strip()
        meant = finder(name) if name else []
        if len(meant) > 1:
            several = ", ".join(clip.place for clip in meant[:3])
            raise DataError(f"{path}, {place}: {name!r} may be {several}; write the path below the folder")
        if not meant:
            tables.unmatched.append(f"{path}, {place}: {name!r}")
            continue
        num_read += 1
        values = {role: cells[column].strip() for role, column in roles.items() if role != NAME}
        if LABELS in values:
            values[LABELS] = clean_labels(values[LABELS])
        if SPLIT in values or of_file:
            values[SPLIT] = of_file or _split(values[SPLIT], path, place)
        _merge(tables.facts.setdefault(meant[0].name, Facts()), values, f"{path}, {place}", name)
    read_as = ", ".join(f"{table.header[column]!r} as {role}" for role, column in roles.items())
    whole = f"; {of_file} by its name" if of_file else ""
    tables.used.append(f"{path}: {counted(num_read, 'clip', 'clips')}; {read_as}{whole}")


def _merge(facts: Facts, values: Mapping[str, str], where: str, name: str) -> None:
    for role, value in values.items():
        if not value:
            continue
        if facts.values.get(role, value) != value:
            raise DataError(
                f"{where}: {name!r} has {role} {value[:60]!r}, and {facts.values[role][:60]!r} in "
                f"{facts.places[role]}; keep one"
            )
        facts.values[role], facts.places[role] = value, where


def clean_labels(cell: str) -> str:
    """Return labels between commas, without repetition.

    >>> clean_labels("Happy; proud|happy"), clean_labels("['calm', 'sad']")
    ('happy,proud', 'calm,sad')
    """
    words = parse_labels(_FROM_EXCEL.sub(",", cell))
    return ",".join(dict.fromkeys(" ".join(word.split()).lower() for word in words))


def split_of_text(text: str) -> str | None:
    """Return the split that a word of a file's or folder's name says, None without one.

    >>> split_of_text("labels_dev"), split_of_text("contest"), split_of_text("Test 2")
    ('validation', None, 'test')
    """
    words = re.split(r"[\W_\d]+", text.lower())
    return next((split for split, forms in SPLITS.items() if set(forms) & set(words)), None)


def _split(cell: str, path: Path, place: str) -> str:
    if not cell:
        return ""
    known = next((split for split, forms in SPLITS.items() if cell.lower() in forms), None)
    if known is None:
        raise DataError(f"{path}, {place}: the split {cell!r} is none of {', '.join(SPLITS)}; rename it")
    return known


def _read(path: Path) -> _Table:
    head = RowReader(path, {})
    # What it refuses is only that it cannot tell the columns' roles, or it is refused again below.
    with suppress(DataError):
        next(head.rows(), None)
    if not head.header:
        next(RowReader(path, {}).rows(), None)
        raise DataError(f"{path}: the file has no rows")
    column = head.header[0]
    reader = RowReader(path, {NAME: column, LABELS: column}, further=head.header)
    rows = [(row.place, tuple(_text(cell) for cell in row.further)) for row in reader.rows()]
    return _Table(path, head.header, rows)


def _text(cell: Any) -> str:
    if isinstance(cell, list | tuple):
        return ", ".join(map(str, cell))
    return "" if cell is None else str(cell)


def _roles(table: _Table, finder: ClipFinder, given: Mapping[str, str]) -> dict[str, int]:
    """Return the place of each role's column.

    Raises:
        DataError: No column names clips that are there, no other is known, or two may be one role.
    """
    plain = [re.sub(r"[\s\-]+", "_", column.strip().lower()) for column in table.header]
    roles: dict[str, int] = {}
    for role, forms in COLUMNS.items():
        if role in given and given[role] in table.header:
            roles[role] = table.header.index(given[role])
            continue
        like = [place for form in (role, *forms) for place, column in enumerate(plain) if column == form]
        like = [place for place in dict.fromkeys(like) if place not in roles.values()]
        if role == NAME:
            like = sorted(like, key=lambda place: -_matches(table, place, finder))[:1]
        elif role == LABELS and len(like) > 1 and plain[like[0]] != role:
            several = ", ".join(repr(table.header[place]) for place in like)
            raise DataError(
                f"{table.path}: {several} may each be {role!r}; name one, as in --columns "
                f"{role}={table.header[like[0]]}"
            )
        if like:
            roles[role] = like[0]
    has = ", ".join(map(repr, table.header))
    if NAME not in roles or len(roles) < 2:
        raise DataError(f"{table.path}: no columns of names and labels in {has}; name them by --columns name=FILE")
    if not _matches(table, roles[NAME], finder):
        column = table.header[roles[NAME]]
        raise DataError(f"{table.path}: no clip has a name of the column {column!r}; name another by --columns name=")
    return roles


def _matches(table: _Table, column: int, finder: ClipFinder) -> int:
    return sum(bool(finder(cells[column])) for _, cells in table.rows[:1000] if cells[column].strip())


def numbers_only(facts: Iterable[Facts]) -> bool:
    """Return whether all labels are numbers, as classes are, of which no word is known."""
    labels = [word for fact in facts for word in fact.values.get(LABELS, "").split(",") if word]
    return bool(labels) and all(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in labels)
