"""Read and check label files of the published layout, before any media are opened.

Rows are numbered as a spreadsheet shows them: the header is row 1, the first clip row 2.
"""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short_repr
from typing import TypeAlias

import pandas as pd

from affectgpt_r1.data.layouts.annotations import LABEL_COLUMNS, NO_QUESTIONS, QuestionSet, read_annotations
from affectgpt_r1.data.layouts.mer import is_safe_name
from affectgpt_r1.data.layouts.spoken_text import limited_subtitles
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import DataError, OnFault, refuse
from affectgpt_r1.io.csv_format import HEADER_BYTES, spreadsheet_format
from affectgpt_r1.io.untrusted_files import has_control_character, json_lines
from affectgpt_r1.metrics.judgements import preferences_of_clips, read_judgements
from affectgpt_r1.types import Annotations, EmotionSet

_LISTED_AT_MOST = 5

LONGEST_NAME = 251  # bytes; a file name has at most 255 with its suffix
_PLAIN_NAME = rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}"  # without any of the faults of _name_problem

ColumnReader: TypeAlias = Callable[[Path, str, OnFault], dict[str, str]]  # as read_columns


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One labelled clip."""

    name: str  # a file name without its suffix
    labels: EmotionSet  # ("neutral",) for an empty field of a training set
    reason: str = ""  # "" where the set has none
    subtitle: str = ""  # "" where nothing is said
    row: int = 0  # of the label file
    annotations: Annotations = field(default_factory=dict, hash=False)  # for data.questions


def read_manifest(
    root: Path,
    labels: str,
    *,
    reasons: str | None = None,
    subtitles: str | None = "subtitle_chieng.csv",
    empty_as_neutral: bool = False,
    questions: QuestionSet = NO_QUESTIONS,
    answers_all: bool = False,
    on_fault: OnFault = refuse,
    read: ColumnReader | None = None,
) -> list[ManifestRow]:
    """Read a label file, and reasons and subtitles of its clips.

    Args:
        root: Data folder.
        labels: Label file in ``root`` with the columns ``name`` and ``openset`` or ``discrete``; the latter are not
            needed where none of ``questions`` is about emotion words.
        reasons: File in ``root`` with ``name`` and ``reason`` of every labelled clip.
        subtitles: File in ``root`` with ``name`` and ``english`` of every labelled clip, empty where nothing is said.
            Long ones are cut; see :mod:`affectgpt_r1.data.layouts.spoken_text`.
        empty_as_neutral: Read an empty ``openset`` as ``neutral``, as the published training does.
        questions: What the clips may be asked.
        answers_all: Refuse a file that does not answer each of them.
        on_fault: See :data:`~affectgpt_r1.errors.OnFault`.
        read: Reads the subtitles; one that several manifests share reads them once.

    Raises:
        DataError: A file is missing, empty or not UTF-8, lacks a column or a clip, names a clip twice or one outside
            ``root``; or a row does not answer one of ``questions``.
    """
    path = root / labels
    try:
        table = read_table(path, on_fault=on_fault)
    except DataError as fault:
        on_fault(fault)
        return []
    names: list[str] = table["name"].tolist()
    emotions = _emotions(path, table, ("neutral",) if empty_as_neutral else (), questions, on_fault)
    reason_of = _covering(root / reasons, "reason", names, on_fault) if reasons else {}
    subtitle_of = (
        clip_subtitles(root / subtitles, "english", names, on_fault, read or read_columns) if subtitles else {}
    )
    why = [reason_of.get(name, "") for name in names]
    annotations = read_annotations(path, table, emotions, why, questions.kinds, required=answers_all, on_fault=on_fault)
    return [
        ManifestRow(name, words, reason, subtitle_of.get(name, ""), row, annotation)
        for row, name, words, reason, annotation in zip(table.index, names, emotions, why, annotations, strict=True)
    ]


def _emotions(
    path: Path, table: pd.DataFrame, empty: EmotionSet, questions: QuestionSet, on_fault: OnFault
) -> list[EmotionSet]:
    """Return the emotion words of every row; none where the file lacks the column and no question needs it."""
    columns = [column for column in LABEL_COLUMNS if column in table.columns]
    if not columns and not questions.needs_labels():
        return [()] * len(table)
    try:
        _check_columns(path, table, columns[:1] or LABEL_COLUMNS[:1])
    except DataError as fault:
        on_fault(fault)
        return [()] * len(table)
    return [parse_labels(cell) or empty for cell in table[columns[0]]]


def read_table(
    path: Path, columns: Sequence[str] = (), on_fault: OnFault = refuse, wanted: Container[str] | None = None
) -> pd.DataFrame:
    """Read a CSV file that has a ``name`` column: UTF-8, every field a string, empty fields ``""``.

    A ``.jsonl`` file is one of people's judgements, read by :func:`~affectgpt_r1.metrics.judgements.read_judgements`:
    a row for each clip, with ``a1``, ``a2`` and ``preference``.

    The table's index is the row in a spreadsheet, where blank rows count. Names are composed (NFC), so that files from
    different systems agree. As in the published loaders, pandas takes ``NA``, ``null``, ``None`` and ``nan`` for empty.

    Args:
        path: The file.
        columns: Columns that it must have in addition to ``name``.
        on_fault: Of rows; see :data:`~affectgpt_r1.errors.OnFault`. Such rows are left out where it returns.
        wanted: Names that are looked up; others may be repeated. None for all.

    Raises:
        DataError: The file cannot be read, lacks a column, clips or a cell, or has an unsafe or repeated name.
    """
    if path.suffix == ".jsonl":
        table = pd.DataFrame(preferences_of_clips(read_judgements(path)), dtype=str)
        table.index = pd.RangeIndex(1, len(table) + 1)
        _check_columns(path, table, ["name", *columns])
        return table.drop(index=_faulty_names(path, table["name"], on_fault))
    check_format(path)
    try:
        # Longer rows are skipped here, and counted by _checked_rows.
        table = pd.read_csv(path, dtype=str, encoding="utf-8", on_bad_lines="skip").fillna("")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; set the data folder (paths.data) or the file's name") from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); {_how_to_recode(path)}") from error
    except (ValueError, OverflowError, OSError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    _check_columns(path, table, ["name", *columns])
    if table.empty:
        raise DataError(f"{path}: has a header but no rows")
    rows, short = _checked_rows(path, on_fault)
    if len(rows) != len(table):  # quotes inside of cells, which pandas and Python read differently
        raise DataError(f"{path}: has {len(table)} or {len(rows)} rows, by how it is quoted; save it as CSV once more")
    table.index = pd.Index(rows)
    table["name"] = table["name"].map(_composed)
    faulty = _faulty_names(path, table["name"].drop(index=short), on_fault, wanted)
    return table.drop(index=[*short, *faulty])


def read_columns(
    path: Path, column: str, on_fault: OnFault = refuse, wanted: Container[str] | None = None
) -> dict[str, str]:
    """Read one column of a CSV file by clip name, in file order; see :func:`read_table` for what is refused."""
    table = read_table(path, [column], on_fault, wanted)
    return dict(zip(table["name"].tolist(), table[column].tolist(), strict=True))


def read_cues(path: Path) -> dict[str, dict[str, float]]:
    """Read the recorded cues of synthetic clips: JSON lines with a ``name`` and the numbers under ``cues``.

    Raises:
        DataError: The file is missing, or a line holds no such object; says which.
    """
    try:
        clips = list(json_lines(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    cues: dict[str, dict[str, float]] = {}
    for number, clip in clips:
        try:
            cues[_composed(clip["name"])] = {cue: _finite(value) for cue, value in clip["cues"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f'{path}: line {number} is not {{"name": ..., "cues": {{...}}}}: {error!r}') from error
    return cues


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or not abs(value) < 1e100:
        raise ValueError(f"a cue is a number, not {short_repr(value)}")
    return float(value)


def check_disjoint(
    train: Iterable[ManifestRow], evaluation: Iterable[ManifestRow], known: str = "", on_fault: OnFault = refuse
) -> None:
    """Refuse clips that are in a training and in an evaluation set; ``known`` says what is known of such clips.

    Raises:
        DataError: Names the clips and their rows in both sets.
    """
    train_row_of = {row.name: row.row for row in train}
    shared = [row for row in evaluation if row.name in train_row_of]
    if shared:
        listed = [f"{row.name} (rows {train_row_of[row.name]} and {row.row})" for row in shared]
        note = f" ({known})" if known else ""
        on_fault(
            DataError(
                f"{len(shared)} clips are in two splits: {listing(listed)}{note}; take them out of the training file",
                items=listed,
            )
        )


def hash_order(rows: Iterable[ManifestRow], salt: str) -> list[ManifestRow]:
    """Return rows in an order that depends on their names alone: a subset or split is the same everywhere."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{salt}:{row.name}".encode()).digest())


def listing(items: Iterable[str]) -> str:
    """Return the first items of many, and how many more there are."""
    shown = list(items)
    rest = len(shown) - _LISTED_AT_MOST
    return ", ".join(shown[:_LISTED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def clip_subtitles(
    path: Path, column: str, names: Sequence[str], on_fault: OnFault = refuse, read: ColumnReader | None = None
) -> dict[str, str]:
    """Read what is said in the clips ``names``, cut as by :func:`~affectgpt_r1.data.layouts.spoken_text.limited`.

    Raises:
        DataError: The file cannot be used, or lacks a clip.
    """
    said = _covering(path, column, names, on_fault, read)
    return limited_subtitles(path, said, [name for name in names if name in said])


def _covering(
    path: Path, column: str, names: Sequence[str], on_fault: OnFault, read: ColumnReader | None = None
) -> dict[str, str]:
    try:
        values = read(path, column, on_fault) if read else read_columns(path, column, on_fault, set(names))
    except DataError as fault:
        on_fault(fault)
        return {}
    lacking = [name for name in names if name not in values]
    if lacking:
        message = f"{path}: has no row for {len(lacking)} of {len(names)} labelled clips: {listing(lacking)}"
        on_fault(DataError(message, items=lacking))
    return values


def _check_columns(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise DataError(f"{path}: lacks the column {', '.join(lacking)}; it has {', '.join(table.columns)}")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def check_format(path: Path) -> None:
    """Refuse what spreadsheet programs save as CSV but is not, before pandas guesses; say what it is."""
    try:
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
    except OSError:
        return  # pandas will report it
    if problem := spreadsheet_format(start):
        raise DataError(f"{path}: {problem}; save it as 'CSV UTF-8', with commas between the cells")


def _how_to_recode(path: Path) -> str:
    """Return the remedy for a file that is not UTF-8: a command where it is in the encoding of a Chinese Excel."""
    try:
        with path.open(encoding="gb18030") as file:
            while file.read(HEADER_BYTES):
                pass
    except (OSError, ValueError):
        return "save the file as UTF-8"
    return f"save the file as UTF-8; if it is in GBK: iconv -f GB18030 -t UTF-8 {path.name} > utf8-{path.name}"


def _checked_rows(path: Path, on_fault: OnFault) -> tuple[list[int], list[int]]:
    """Return the numbers of the rows that pandas reads, and of those among them that are too short.

    Rows of another length than the header are faults. pandas would fill short rows with empty cells, and does not count
    blank rows.
    """
    rows: list[int] = []
    short: list[int] = []
    header: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row, cells in enumerate(csv.reader(file), start=1):
                if len(cells) <= 1 and not "".join(cells).strip():
                    continue  # as pandas does
                if not header:
                    header = cells
                    continue
                if len(cells) != len(header):
                    on_fault(_length_fault(path, row, cells, header))
                if len(cells) < len(header):
                    short.append(row)
                if len(cells) <= len(header):
                    rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    return rows, short


def _length_fault(path: Path, row: int, cells: list[str], header: list[str]) -> DataError:
    items = [f"row {row} ({cells[0]})"]
    if len(cells) < len(header):
        return DataError(
            f"{path}: row {row} ({cells[0]}) has no cell for the column {header[len(cells)]}; complete the row, or "
            "write its comma where the cell is meant to be empty",
            kind=f"{path}: short",
            items=items,
        )
    return DataError(
        f"{path}: row {row} ({cells[0]}) has {len(cells)} cells, the header {len(header)}; put a cell that holds "
        "commas in double quotes",
        kind=f"{path}: long",
        items=items,
    )


def _faulty_names(
    path: Path, names: pd.Series[str], on_fault: OnFault, wanted: Container[str] | None = None
) -> list[int]:
    """Return the rows whose names are faults."""
    if names.is_unique and names.str.fullmatch(_PLAIN_NAME).all():  # of 130,000 clips the loop would take seconds
        return []
    first_row: dict[str, int] = {}
    faulty: list[int] = []
    for row, name in names.items():
        assert isinstance(row, int)
        if problem := _name_problem(name):
            kind, message = problem
        elif name in first_row and wanted is not None and name not in wanted:
            faulty.append(row)  # IEMOCAP's transcription has two clips twice that no set labels
            continue
        elif name in first_row:
            kind, message = "repeated", f"the name {name!r} is in rows {first_row[name]} and {row}; keep one"
        else:
            first_row[name] = row
            continue
        faulty.append(row)
        where = "" if kind == "repeated" else f"row {row}: "
        on_fault(DataError(f"{path}: {where}{message}", kind=f"{path}: {kind}", items=[f"row {row} ({name[:40]})"]))
    return faulty


def _name_problem(name: str) -> tuple[str, str] | None:
    """Return the kind of fault and what is wrong with a name; None if it may be a clip's."""
    if not name:
        return "empty", ("the name is empty; pandas takes NA, null, None and nan for empty, too: rename the clip")
    if not is_safe_name(name):
        fault = "a control character" if has_control_character(name) else "a folder"
        return fault, (
            f"the name {name!r} has {fault} in it; names are file names without folder and suffix, and paths.data is "
            "the folder above video/"
        )
    if (size := len(name.encode())) > LONGEST_NAME:
        return "size", (
            f"the name {name[:40]!r}… has {size} bytes; file systems allow {LONGEST_NAME} and a suffix: rename the clip"
        )
    return None
