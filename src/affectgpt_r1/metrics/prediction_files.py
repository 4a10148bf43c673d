"""Files of named answers or targets: CSV, JSONL, and the challenges' ``.npz``. Nothing is ever unpickled.

CSV and JSONL carry ``name`` and ``openset`` (labels) or, without ``openset``, ``reason`` (free text, whose
labels are extracted). An ``.npz`` carries the arrays ``filenames`` and ``fileitems`` (labels).
"""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, NamedTuple

import numpy as np

from affectgpt_r1.emotion.extraction import Extraction
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.csv_format import HEADER_BYTES, spreadsheet_format
from affectgpt_r1.io.files import replacing
from affectgpt_r1.io.untrusted_files import (
    NpyHeader,
    has_control_character,
    json_lines,
    npy_header,
    open_zip,
    read_member,
)
from affectgpt_r1.types import EmotionSet

NAME, LABELS, FREE_TEXT = "name", "openset", "reason"
_NPZ_NAMES, _NPZ_ITEMS = "filenames", "fileitems"
_LARGEST_CELL = 1 << 30
_LARGEST_ARRAY = 1 << 26
_LONGEST_LABEL = 10_000
_MOST_LABELS = 10_000
_MOST_ROWS = 1_000_000
_MOST_WORDS = 1_000_000  # of a file; scoring them takes two seconds
_LONGEST_TEXT = 1_000_000  # free text of which takes a second to search
_PICKLE, _BARE_ARRAY = b"\x80", b"\x93NUMPY"
_SHOWN_NAMES = 5


class NamedSets(NamedTuple):
    """The rows of a file."""

    names: list[str]
    labels: list[EmotionSet]
    negated: list[tuple[str, ...]]  # spans that the extraction from free text skipped; empty where labels were given


class _Row(NamedTuple):
    place: str  # such as "row 3"
    name: Any
    labels: Any
    free_text: Any


def read_named_sets(path: Path, extract: Callable[[str], Extraction]) -> NamedSets:
    """Read a ``.csv``, ``.jsonl`` or ``.npz`` file; ``extract`` finds the labels of free text.

    Raises:
        DataError: The file is missing, empty, pickled or damaged, lacks a column or names a clip twice.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".npz": _npz_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: the suffix is none of {', '.join(readers)}; convert the file")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    sets = NamedSets([], [], [])
    places: dict[str, str] = {}
    num_words = 0
    for row in reader(path):
        name = row.name.strip() if isinstance(row.name, str) else ""
        if not name:
            raise DataError(f"{path}, {row.place}: {NAME!r} is {short_repr(row.name)}; give the clip's name as text")
        if has_control_character(name):
            raise DataError(
                f"{path}, {row.place}: the name {name[:80]!r} has a control character in it; rename the clip"
            )
        if name in places:
            raise DataError(f"{path}, {row.place}: {name!r} is in {places[name]} already; keep one")
        places[name] = row.place
        labels, negated = _labels(row, path, extract)
        num_words += len(labels)
        if num_words > _MOST_WORDS:
            raise DataError(f"{path}, {row.place}: more than {_MOST_WORDS:,} labels so far; split the file")
        sets.names.append(name)
        sets.labels.append(labels)
        sets.negated.append(negated)
    if not sets.names:
        raise DataError(f"{path}: the file has no rows")
    return sets


def _labels(row: _Row, path: Path, extract: Callable[[str], Extraction]) -> tuple[EmotionSet, tuple[str, ...]]:
    given = row.labels if row.labels is not None else row.free_text
    if isinstance(given, str) and len(given) > _LONGEST_TEXT:
        raise DataError(f"{path}, {row.place}: {len(given):,} characters; an answer has at most {_LONGEST_TEXT:,}")
    if row.labels is None and isinstance(given, str):
        extraction = extract(given)
        return extraction.labels, extraction.negated
    if isinstance(given, str) or (isinstance(given, list) and all(isinstance(word, str) for word in given)):
        return _checked(parse_labels(given), row, path), ()
    if given is None:
        raise DataError(f"{path}, {row.place}: neither {LABELS!r} nor {FREE_TEXT!r}; give one, empty if need be")
    raise DataError(f"{path}, {row.place}: labels are text or a list of texts, not {type(given).__name__}")


def _checked(words: EmotionSet, row: _Row, path: Path) -> EmotionSet:
    longest = max(map(len, words), default=0)
    if longest > _LONGEST_LABEL:
        raise DataError(
            f"{path}, {row.place}: a label of {longest:,} characters; labels are words between commas, "
            f"free text belongs under {FREE_TEXT!r}"
        )
    if len(words) > _MOST_LABELS:
        raise DataError(f"{path}, {row.place}: {len(words):,} labels; a clip has at most {_MOST_LABELS:,}")
    return words


def _csv_rows(path: Path) -> Iterator[_Row]:
    with path.open("rb") as start:
        if problem := spreadsheet_format(start.read(HEADER_BYTES)):
            raise DataError(f"{path}: {problem}; save it as 'CSV UTF-8', with commas between the cells")
    limit = csv.field_size_limit(_LARGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = filter(None, csv.reader(file, strict=True))  # blank lines are not rows
            columns = next(reader, [])
            if not columns:
                raise DataError(f"{path}: the file is empty")
            if twice := [column for column in (NAME, LABELS, FREE_TEXT) if columns.count(column) > 1]:
                raise DataError(f"{path}, row 1: has several columns {twice[0]!r}; keep one")
            if NAME not in columns or not {LABELS, FREE_TEXT} & set(columns):
                raise DataError(
                    f"{path}, row 1: needs the columns {NAME!r} and {LABELS!r} (or {FREE_TEXT!r}), "
                    f"separated by commas, has {', '.join(map(repr, columns))}"
                )
            places = [columns.index(column) if column in columns else None for column in (NAME, LABELS, FREE_TEXT)]
            for number, cells in enumerate(reader, start=2):
                if len(cells) != len(columns):
                    raise DataError(
                        f"{path}, row {number}: does not have {len(columns)} cells; quote texts with commas"
                    )
                yield _Row(f"row {number}", *(None if place is None else cells[place] for place in places))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    try:
        for number, content in json_lines(path):
            yield _jsonl_row(content, f"line {number}", path)
    except ValueError as error:
        raise DataError(f"{path}, {error}") from error


def _jsonl_row(content: object, place: str, path: Path) -> _Row:
    if not isinstance(content, dict):
        raise DataError(f"{path}, {place}: not an object with the fields {NAME!r} and {LABELS!r} or {FREE_TEXT!r}")
    if NAME not in content or not {LABELS, FREE_TEXT} & content.keys():
        raise DataError(
            f"{path}, {place}: needs the fields {NAME!r} and {LABELS!r} (or {FREE_TEXT!r}), "
            f"has {', '.join(map(repr, content)) or 'none'}"
        )
    return _Row(place, content[NAME], content.get(LABELS), content.get(FREE_TEXT))


class _Texts(NamedTuple):
    """An array of text; each element is decoded when it is read."""

    content: bytearray
    header: NpyHeader
    width: int  # characters of an element

    def at(self, place: int) -> str:
        start = self.header.start + 4 * self.width * place
        order = "be" if self.header.descr[0] == ">" else "le"
        return self.content[start : start + 4 * self.width].decode(f"utf-32-{order}").rstrip("\0")

    def row(self, number: int) -> str | list[str]:
        if len(self.header.shape) == 1:
            return self.at(number)
        rows, columns = self.header.shape
        first, step = (number, rows) if self.header.fortran_order else (number * columns, 1)
        return [self.at(place) for place in range(first, first + step * columns, step)]


def _npz_rows(path: Path) -> Iterator[_Row]:
    names, items = (_npz_texts(path, key) for key in (_NPZ_NAMES, _NPZ_ITEMS))
    shape, others = names.header.shape, items.header.shape
    if len(shape) != 1 or len(others) not in (1, 2) or shape[0] != others[0]:
        raise DataError(f"{path}: {_NPZ_NAMES!r} {shape} and {_NPZ_ITEMS!r} {others} do not pair up")
    if max(shape[0], *others[1:], 0) > _MOST_ROWS:
        raise DataError(f"{path}: arrays of {shape} and {others}; at most {_MOST_ROWS:,} rows and columns are read")
    for number in range(shape[0]):
        try:
            yield _Row(f"item {number}", names.at(number), items.row(number), None)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, item {number}: not text ({error.reason}); write the file again") from error


def _npz_texts(path: Path, key: str) -> _Texts:
    try:
        with open_zip(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in keys:
                raise DataError(f"{path}: no array {key!r}, only {', '.join(map(repr, keys)) or 'none'}")
            content = read_member(archive, f"{key}.npy", _LARGEST_ARRAY)
        header = npy_header(content)
        if "O" in header.descr:
            raise _pickled(path)
        kind = re.fullmatch(r"[<>]U(\d{1,9})", header.descr)
        if kind is None:
            raise DataError(f"{path}: array {key!r} is of type {header.descr}, not of text")
        if 4 * int(kind[1]) * math.prod(header.shape) != len(content) - header.start or kind[1] == "0":
            raise ValueError(
                f"it has {len(content) - header.start:,} bytes for {header.shape} texts of {kind[1]} characters"
            )
    except zipfile.BadZipFile as error:
        raise _not_archive(path) from error
    except (LookupError, OSError, ValueError) as error:
        raise DataError(f"{path}: array {key!r} cannot be read ({error}); write the file again") from error
    return _Texts(content, header, int(kind[1]))


def _not_archive(path: Path) -> DataError:
    with path.open("rb") as file:
        start = file.read(len(_BARE_ARRAY))
    if not start:
        return DataError(f"{path}: the file is empty")
    if start.startswith(_PICKLE):
        return _pickled(path)
    if start == _BARE_ARRAY:
        return DataError(f"{path}: not an archive of arrays; write it with numpy.savez_compressed")
    return DataError(f"{path}: not a zip archive, as .npz files are, or cut short; write or fetch it again")


def _pickled(path: Path) -> DataError:
    return DataError(
        f"{path}: holds pickled objects, which could run code and are never loaded; "
        f"save {_NPZ_NAMES!r} and {_NPZ_ITEMS!r} as arrays of text"
    )


def write_submission(path: Path, names: Sequence[str], labels: Sequence[EmotionSet]) -> None:
    """Write a challenge's ``-openset.npz``: text arrays ``filenames`` and ``fileitems`` (words joined by ", ").

    Raises:
        DataError: The path ends otherwise or cannot be written, or an answer is too long for an array of text.
    """
    if not path.name.endswith("-openset.npz"):
        raise DataError(f"{path}: the challenges take files named *-openset.npz; rename it")
    items = [", ".join(words) for words in labels]
    longest = max(range(len(items)), key=lambda index: len(items[index]))
    if 4 * len(items) * len(items[longest]) > _LARGEST_ARRAY:
        raise DataError(f"the answer to {names[longest]!r} has {len(items[longest]):,} characters; shorten it")
    with replacing(path, elsewhere="choose another --submission") as partial, partial.open("wb") as file:
        np.savez_compressed(file, filenames=np.array(names, np.str_), fileitems=np.array(items, np.str_))


def align(predictions: NamedSets, targets: NamedSets, *, subset: bool = False) -> tuple[NamedSets, NamedSets]:
    """Return both in the order of ``targets``; with ``subset``, targets without an answer are left out.

    Raises:
        DataError: Names differ; lists some.
    """
    answered, known = set(predictions.names), set(targets.names)
    if unknown := [name for name in predictions.names if name not in known]:
        raise DataError(f"{_some(unknown)} with a prediction and no target: score each clip against its own target")
    if not subset and (missing := [name for name in targets.names if name not in answered]):
        raise DataError(f"{_some(missing)} with a target and no prediction: answer them, or give --subset")
    names = [name for name in targets.names if name in answered]
    return _rows_of(predictions, names), _rows_of(targets, names)


def _rows_of(sets: NamedSets, names: Sequence[str]) -> NamedSets:
    row_of = {name: row for row, name in enumerate(sets.names)}
    rows = [row_of[name] for name in names]
    return NamedSets(list(names), [sets.labels[row] for row in rows], [sets.negated[row] for row in rows])


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{len(names)} clip{'s' * (len(names) > 1)} ({shown}{', …' if len(names) > _SHOWN_NAMES else ''})"
