"""Read the published lexicon folder: five wheel workbooks, a synonym workbook, and the table of word forms.

The published mapping, which :func:`compile_published` follows to the letter:

* case 1: a form counts as the alphabetically first of its base forms;
* case 2: that base form counts as the alphabetically first wheel word that lists it as a synonym;
* case 3: all wheel words of *all* base forms, sorted; the first that a wheel has gives the cluster on that wheel.
  At level 2 a level-1 word counts as its alphabetically first child. A word that a wheel has under several clusters
  belongs to the last one written.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.emotion.lexicon_cache import cached_lexicon
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.emotion.wheels import NUM_WHEELS, Entry, Lexicon
from affectgpt_r1.errors import LexiconError
from affectgpt_r1.io.workbook import WorkbookLimits, read_sheet

_SHEET = "Sheet1"
_WHEELS = tuple(f"wheel{wheel}.xlsx" for wheel in range(1, NUM_WHEELS + 1))
_SYNONYMS = "synonym.xlsx"
_FORMS = "format.csv"
_LEVEL_COLUMNS = ("level1", "level2", "level3")
_FORM_COLUMNS = ("name", "format")
_REMEDY = "copy the published folder again"
_MOST_BYTES = 1 << 21  # of a file, unpacked; the largest published one has 300 kB
_LIMITS = WorkbookLimits(_MOST_BYTES, num_tags=200_000, num_rows=20_000, num_columns=64)  # published: 27,000 tags
_LONGEST_FORM = 100
_MOST_REACHABLE = 500_000  # wheel words of all forms

WheelRows = list[tuple[str, str, str]]
WordSets = Mapping[str, set[str]]


class _WheelMap(NamedTuple):
    level1: dict[str, str]
    level2: dict[str, str]


def read_published(folder: Path, *, name: str) -> Lexicon:
    """Load the lexicon in ``folder``; it is compiled once per content, then read from the user's cache.

    Args:
        folder: Holds ``wheel1.xlsx`` to ``wheel5.xlsx``, ``synonym.xlsx`` and ``format.csv``.
        name: In reports.

    Raises:
        LexiconError: A file, sheet or column is missing, or a file is damaged.
    """
    files = [folder / file for file in (*_WHEELS, _SYNONYMS, _FORMS)]
    digest = hashlib.sha256(name.encode())
    for file in files:
        if not file.is_file():
            raise LexiconError(f"{file} is missing: {_REMEDY}, it has {', '.join(path.name for path in files)}")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return cached_lexicon(digest.hexdigest(), lambda: _read_folder(folder, name))


def _read_folder(folder: Path, name: str) -> Lexicon:
    wheels = [_read_wheel(folder / file) for file in _WHEELS]
    return compile_published(name, wheels, _read_synonyms(folder / _SYNONYMS), _read_forms(folder / _FORMS))


def compile_published(name: str, wheels: Sequence[WheelRows], synonyms: WordSets, forms: WordSets) -> Lexicon:
    """Compile a lexicon by the published rules.

    Args:
        name: In reports.
        wheels: Five lists of ``(level-1 word, level-2 word, level-3 word)`` rows.
        synonyms: The wheel words of each base form.
        forms: The base forms of each word form.

    Raises:
        LexiconError: The forms have so many wheel words that it would take long.
    """
    maps = [_wheel_map(rows) for rows in wheels]
    levels = [[wheel.level1 for wheel in maps], [wheel.level2 for wheel in maps]]
    names = tuple(tuple(tuple(sorted(set(places.values()))) for places in level) for level in levels)
    bits = [[{n: 1 << i for i, n in enumerate(clusters)} for clusters in level] for level in names]

    def masks(words: list[str], level: int) -> tuple[int, ...]:
        pairs = zip(levels[level - 1], bits[level - 1], strict=True)
        return tuple(next((bit[places[word]] for word in words if word in places), 0) for places, bit in pairs)

    entries = {}
    num_reachable = 0
    for form, bases in forms.items():
        first = min(bases)
        reachable = sorted({word for base in bases for word in synonyms.get(base, ())})
        num_reachable += len(reachable)
        if num_reachable > _MOST_REACHABLE:
            raise LexiconError(f"{name}: its forms have more than {_MOST_REACHABLE:,} wheel words; {_REMEDY}")
        synonym = min(synonyms[first], default=None) if first in synonyms else None
        entries[form] = Entry(first, synonym, masks(reachable, 1), masks(reachable, 2))
    return Lexicon(name, names, entries)


def _wheel_map(rows: WheelRows) -> _WheelMap:
    level1: dict[str, str] = {}
    level2: dict[str, str] = {}
    for centre, child, word in rows:
        level1.update({centre: centre, child: centre, word: centre})
        level2.update({child: child, word: child})
    first: dict[str, str] = {}
    for centre, child, _ in rows:
        first[centre] = min(child, first.get(centre, child))
    level2.update(first)
    return _WheelMap(level1, level2)


def _read_wheel(path: Path) -> WheelRows:
    rows: WheelRows = []
    filled = ["", "", ""]
    for number, cells in _read_sheet(path, _LEVEL_COLUMNS):
        if not any(cells):
            continue
        filled = [cell or before for cell, before in zip(cells[:2], filled, strict=False)] + [cells[2]]
        for column, value in zip(_LEVEL_COLUMNS, filled, strict=True):
            if not value:
                raise LexiconError(f"{path}, sheet {_SHEET}, row {number}: column {column!r} is empty; {_REMEDY}")
        rows.append((filled[0], filled[1], filled[2]))
    if not rows:
        raise LexiconError(f"{path}, sheet {_SHEET}: no rows below the header; {_REMEDY}")
    return rows


def _read_synonyms(path: Path) -> dict[str, set[str]]:
    runs = [column for run in range(1, 9) for column in (f"word_run{run}", f"synonym_run{run}")]
    wheel_words: dict[str, set[str]] = defaultdict(set)
    for _, cells in _read_sheet(path, runs):
        for word, listed in zip(cells[::2], cells[1::2], strict=True):
            if word:
                for synonym in (word, *parse_labels(listed)):
                    wheel_words[synonym].add(word)
    return dict(wheel_words)


def _read_sheet(path: Path, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return row numbers and the lower-case text of ``columns``."""
    try:
        names, rows = read_sheet(path, _SHEET, _LIMITS)
    except ValueError as error:
        raise LexiconError(f"{path} cannot be read as a workbook ({error}); {_REMEDY}") from error
    if _SHEET not in names:
        raise LexiconError(f"{path} has no sheet {_SHEET!r} (it has {', '.join(names)}); {_REMEDY}")
    texts = [[_text(cell) for cell in row] for row in rows]
    header = texts[0] if texts else []
    if missing := [column for column in columns if column not in header]:
        raise LexiconError(f"{path}, sheet {_SHEET}, row 1: no column {', '.join(missing)}; {_REMEDY}")
    places = [header.index(column) for column in columns]
    return [(number, [row[place] for place in places]) for number, row in enumerate(texts[1:], start=2)]


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip().lower()


def _read_forms(path: Path) -> dict[str, set[str]]:
    bases: dict[str, set[str]] = defaultdict(set)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LexiconError(f"{path}: more than {_MOST_BYTES:,} bytes; {_REMEDY}")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [column for column in _FORM_COLUMNS if column not in (reader.fieldnames or ())]:
                raise LexiconError(f"{path}, row 1: no column {', '.join(missing)}; {_REMEDY}")
            for number, row in enumerate(reader, start=2):
                base = _text(row["name"])
                if not base or row["format"] is None:
                    raise LexiconError(f"{path}, row {number}: a name or a format is missing; {_REMEDY}")
                # As published, a name is a form of itself, also where none is listed ("no words").
                for form in (base, *parse_labels(_text(row["format"]))):
                    if len(form) > _LONGEST_FORM:
                        raise LexiconError(f"{path}, row {number}: a form of {len(form):,} characters; {_REMEDY}")
                    bases[form].add(base)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise LexiconError(f"{path} cannot be read as CSV ({error}); {_REMEDY}") from error
    if not bases:
        raise LexiconError(f"{path}: no rows below the header; {_REMEDY}")
    return dict(bases)
