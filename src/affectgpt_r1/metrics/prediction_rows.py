"""Rows of files of predictions or targets: CSV, TSV, Excel, JSON, JSONL, and ``.npz``. Nothing is ever unpickled.

A row has a name and labels, free text, or both. The columns are ``name``, ``openset`` (labels) and ``reason`` (free
text), or what people call them (:data:`SYNONYMS`), or what the caller says. An ``.npz`` carries the text arrays
``filenames`` and ``fileitems`` (labels), or AffectGPT's dictionary ``name2reason`` (free text).
"""

from __future__ import annotations

import codecs
import csv
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from affectgpt_r1.errors import DataError
from affectgpt_r1.io.csv_format import HEADER_BYTES
from affectgpt_r1.io.object_archive import read_object_dict
from affectgpt_r1.io.untrusted_files import NpyHeader, json_lines, npy_header, open_zip, read_json, read_member
from affectgpt_r1.io.workbook import WorkbookLimits, read_sheet

NAME, LABELS, FREE_TEXT = "name", "openset", "reason"
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    NAME: ("names", "filename", "filenames", "file_name", "file", "clip", "clip_id", "clip_name", "video", "video_id",
           "video_name", "sample", "sample_id", "sample_name", "utterance", "utterance_id", "id"),
    LABELS: ("open_set", "openset_labels", "ov_labels", "ovlabel", "label", "labels", "emotion", "emotions",
             "prediction", "predictions", "pred", "fileitems", "discrete"),
    FREE_TEXT: ("reasons", "reasoning", "explanation", "description", "caption", "response", "output", "completion"),
}  # fmt: skip
"""What each column is called elsewhere; case, spaces and hyphens do not matter."""

_NPZ_NAMES, _NPZ_ITEMS, _NPZ_REASONS = "filenames", "fileitems", "name2reason"
_LARGEST_CELL = 1 << 30
_LARGEST_ARRAY = 1 << 26
_LARGEST_JSON = 1 << 28
_LARGEST_SHEET = WorkbookLimits(1 << 27, num_tags=5_000_000, num_rows=200_000, num_columns=256)
_MOST_ROWS = 1_000_000
_MOST_COLUMNS = 1000
_DELIMITERS = {";": "semicolons", "\t": "tabs", ",": "commas"}
_PICKLE, _BARE_ARRAY = b"\x80", b"\x93NUMPY"
_WORKBOOK = b"PK\x03\x04"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Row(NamedTuple):
    """A row as the file has it; what a field may hold is checked by the caller."""

    place: str  # such as "row 3"
    name: Any
    labels: Any  # None without such a column
    free_text: Any


class RowReader:
    """Read the rows of one file, and note what was taken for something else than it is called."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self.path = path
        self.columns = columns
        self.notes: list[str] = []
        self.header: tuple[str, ...] = ()  # columns or fields of the first row, once it was read
        self._fields: dict[tuple[str, ...], dict[str, str]] = {}

    def rows(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            DataError: The file is missing, empty, pickled or damaged, or lacks a column.
        """
        readers: dict[str, Callable[[], Iterator[Row]]] = {
            ".csv": self._csv_rows,
            ".tsv": self._csv_rows,
            ".xlsx": self._sheet_rows,
            ".json": self._json_rows,
            ".jsonl": self._jsonl_rows,
            ".npz": self._npz_rows,
        }
        reader = readers.get(self.path.suffix.lower())
        if reader is None:
            raise DataError(f"{self.path}: the suffix is none of {', '.join(readers)}; convert the file")
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file")
        return reader()

    def _csv_rows(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            start = file.read(HEADER_BYTES)
        if start.startswith(_WORKBOOK):
            self.notes.append("is an Excel workbook, in spite of its name; its first sheet was read")
            yield from self._sheet_rows()
            return
        encoding, delimiter = self._csv_format(start)
        limit = csv.field_size_limit(_LARGEST_CELL)
        try:
            with self.path.open(encoding=encoding, newline="") as text:
                reader = filter(None, csv.reader(text, strict=True, delimiter=delimiter))  # blank lines are not rows
                columns = next(reader, [])
                if not columns:
                    raise DataError(f"{self.path}: the file is empty")
                fields = self._check_header(columns)
                name = columns.index(fields[NAME])
                labels, text_at = (
                    columns.index(fields[role]) if role in fields else None for role in (LABELS, FREE_TEXT)
                )
                for number, cells in enumerate(reader, start=2):
                    if len(cells) != len(columns):
                        raise DataError(
                            f"{self.path}, row {number}: does not have {len(columns)} cells; quote texts with commas"
                        )
                    yield Row(
                        f"row {number}",
                        cells[name],
                        None if labels is None else cells[labels],
                        None if text_at is None else cells[text_at],
                    )
        except UnicodeError as error:
            raise DataError(f"{self.path}: not UTF-8 ({error}); save it as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{self.path}: cannot be read as CSV ({error})") from error
        finally:
            csv.field_size_limit(limit)

    def _csv_format(self, start: bytes) -> tuple[str, str]:
        """Return encoding and delimiter of a CSV file by its first bytes."""
        encoding = "utf-8-sig"
        if start.startswith(_UTF_16):
            encoding = "utf-16"
            self.notes.append("is in UTF-16, and was read as such")
            start = start[: len(start) // 2 * 2].decode(encoding, "replace").encode()
        if start.startswith(b"\xd0\xcf\x11\xe0"):
            raise DataError(f"{self.path}: it is an old Excel workbook (.xls); save it as 'CSV UTF-8' or .xlsx")
        header = (start.lstrip(b"\xef\xbb\xbf\r\n").splitlines() or [b""])[0].decode("utf-8", "replace")
        usual = "\t" if self.path.suffix.lower() == ".tsv" else ","
        delimiter = next((mark for mark in (usual, ";", "\t", ",") if mark in header), usual)
        if delimiter != usual:
            self.notes.append(f"has {_DELIMITERS[delimiter]} between its cells, and was read so")
        if header.count(delimiter) >= _MOST_COLUMNS:
            raise DataError(f"{self.path}: its header has more than {_MOST_COLUMNS:,} cells")
        return encoding, delimiter

    def _sheet_rows(self) -> Iterator[Row]:
        try:
            names, rows = read_sheet(self.path, None, _LARGEST_SHEET)
        except ValueError as error:
            raise DataError(f"{self.path}: cannot be read as a workbook ({error}); save it as .csv") from error
        if not rows:
            raise DataError(f"{self.path}: the sheet {(names or ['none'])[0]!r} is empty")
        if len(names) > 1:
            self.notes.append(f"has {len(names)} sheets; {names[0]!r}, the first, was read")
        columns = ["" if cell is None else str(cell) for cell in rows[0]]
        while columns and not columns[-1]:  # openpyxl fills rows up to the largest column that is read
            del columns[-1]
        self._check_header(columns)
        for number, cells in enumerate(rows[1:], start=2):
            if any(cell is not None for cell in cells):
                texts = ["" if cell is None else str(cell) for cell in cells]
                yield self._row(f"row {number}", dict(zip(columns, texts, strict=False)))

    def _check_header(self, columns: Sequence[str]) -> dict[str, str]:
        fields = self._fields_of(columns, "row 1", "columns")
        if twice := [column for column in fields.values() if columns.count(column) > 1]:
            raise DataError(f"{self.path}, row 1: has several columns {twice[0]!r}; keep one")
        return fields

    def _json_rows(self) -> Iterator[Row]:
        try:
            content = read_json(self.path, _LARGEST_JSON)
        except ValueError as error:
            raise DataError(f"{self.path}: not JSON ({error})") from error
        if isinstance(content, list):
            for number, item in enumerate(content):
                yield self._json_row(item, f"item {number}")
        elif isinstance(content, dict) and content:
            reasons = content.get(_NPZ_REASONS) if len(content) == 1 else None
            if isinstance(reasons, dict):
                content = {name: {FREE_TEXT: text} for name, text in reasons.items()}
            for name, item in content.items():
                named = {NAME: name, **item} if isinstance(item, dict) else {NAME: name, LABELS: item}
                yield self._json_row(named, f"key {name[:80]!r}")
        else:
            raise DataError(f"{self.path}: needs a list of objects, or an object with the labels by name")

    def _jsonl_rows(self) -> Iterator[Row]:
        try:
            for number, content in json_lines(self.path):
                yield self._json_row(content, f"line {number}")
        except ValueError as error:
            raise DataError(f"{self.path}, {error}") from error

    def _json_row(self, content: object, place: str) -> Row:
        if not isinstance(content, dict):
            raise DataError(
                f"{self.path}, {place}: not an object with the fields {NAME!r} and {LABELS!r} or {FREE_TEXT!r}"
            )
        return self._row(place, content, "fields")

    def _row(self, place: str, cells: Mapping[str, Any], kind: str = "columns") -> Row:
        fields = self._fields_of(tuple(cells), place, kind)
        values = [cells[fields[role]] if role in fields else None for role in (NAME, LABELS, FREE_TEXT)]
        return Row(place, *values)

    def _fields_of(self, columns: Sequence[str], place: str, kind: str) -> dict[str, str]:
        """Return which column has which role: as the caller says, by its own name, or by a synonym."""
        key = tuple(columns)
        self.header = self.header or key
        if key not in self._fields:
            self._fields[key] = self._assign(key, place, kind)
        return self._fields[key]

    def _assign(self, columns: tuple[str, ...], place: str, kind: str) -> dict[str, str]:
        for role, column in self.columns.items():
            if column not in columns:
                raise DataError(
                    f"{self.path}, {place}: no {kind[:-1]} {column!r}, which was to be read as {role!r}; "
                    f"it has {_listed(columns)}"
                )
        fields = dict(self.columns)
        fields |= {role: role for role in (NAME, LABELS, FREE_TEXT) if role in columns and role not in fields}
        # A label column under another name next to `reason` may be the target: it is not read unless it is named.
        roles = [NAME] if {LABELS, FREE_TEXT} & fields.keys() else [NAME, LABELS, FREE_TEXT]
        for role in roles:
            if role in fields:
                continue
            like = [c for c in columns if _plain(c) in (role, *SYNONYMS[role]) and c not in fields.values()]
            if len(like) > 1:
                raise DataError(
                    f"{self.path}, {place}: {_listed(like)} may each be {role!r}; name one, as in "
                    f"--columns {role}={like[0]}"
                )
            if like:
                fields[role] = like[0]
                self.notes.append(f"{kind[:-1]} {like[0]!r} was read as {role!r}")
        if NAME not in fields or not {LABELS, FREE_TEXT} & fields.keys():
            raise DataError(
                f"{self.path}, {place}: needs the {kind} {NAME!r} and {LABELS!r} (or {FREE_TEXT!r}), "
                f"{'separated by commas, ' * (kind == 'columns')}has {_listed(columns)}; "
                "name them, as in --columns name=ID,openset=WORDS"
            )
        return fields

    def _npz_rows(self) -> Iterator[Row]:
        if _NPZ_REASONS in _npz_keys(self.path):
            for number, (name, text) in enumerate(read_object_dict(self.path, _NPZ_REASONS).items()):
                yield Row(f"item {number}", name, None, text)
            return
        names, items = (_npz_texts(self.path, key) for key in (_NPZ_NAMES, _NPZ_ITEMS))
        shape, others = names.header.shape, items.header.shape
        if len(shape) != 1 or len(others) not in (1, 2) or shape[0] != others[0]:
            raise DataError(f"{self.path}: {_NPZ_NAMES!r} {shape} and {_NPZ_ITEMS!r} {others} do not pair up")
        if max(shape[0], *others[1:], 0) > _MOST_ROWS:
            raise DataError(
                f"{self.path}: arrays of {shape} and {others}; at most {_MOST_ROWS:,} rows and columns are read"
            )
        for number in range(shape[0]):
            try:
                yield Row(f"item {number}", names.at(number), items.row(number), None)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.path}, item {number}: not text ({error.reason}); write the file again"
                ) from error


def _plain(column: str) -> str:
    return re.sub(r"[\s\-]+", "_", column.strip().lower())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


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


def _npz_keys(path: Path) -> list[str]:
    try:
        with open_zip(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise _not_archive(path) from error


def _npz_texts(path: Path, key: str) -> _Texts:
    keys = _npz_keys(path)
    if key not in keys:
        raise DataError(f"{path}: no array {key!r}, only {_listed(keys)}")
    try:
        with open_zip(path) as archive:
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
