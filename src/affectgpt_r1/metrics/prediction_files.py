"""Files of named answers or targets, and the challenges' submissions; see :mod:`.prediction_rows` for the formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from reprlib import repr as short_repr
from typing import NamedTuple

import numpy as np

from affectgpt_r1.emotion.answers import read_answer
from affectgpt_r1.emotion.extraction import AGREEMENT, Extraction
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.io.files import replacing
from affectgpt_r1.io.untrusted_files import has_control_character
from affectgpt_r1.metrics.clip_names import pair_names
from affectgpt_r1.metrics.prediction_rows import FREE_TEXT, LABELS, NAME, Row, RowReader
from affectgpt_r1.types import EmotionSet

_LARGEST_ARRAY = 1 << 26
_LONGEST_LABEL = 10_000
_MOST_LABELS = 10_000
_MOST_WORDS = 1_000_000  # of a file; scoring them takes two seconds
_LONGEST_TEXT = 1_000_000  # free text of which takes a second to search


class NamedSets(NamedTuple):
    """The rows of a file."""

    names: list[str]
    labels: list[EmotionSet]
    negated: list[tuple[str, ...]]  # spans that the extraction from free text skipped; empty where labels were given
    notes: tuple[str, ...] = ()  # what was taken for something else than it is called, or left out
    texts: Sequence[str] = ()  # free text of each row, "" where it has none; empty where no file was read
    header: tuple[str, ...] = ()  # columns or fields of the file's first row

    def of_rows(self, rows: Sequence[int], names: list[str]) -> NamedSets:
        """Return some rows, under other names."""
        return self._replace(
            names=names,
            labels=[self.labels[row] for row in rows],
            negated=[self.negated[row] for row in rows],
            texts=[self.texts[row] for row in rows] if self.texts else (),
        )


def read_named_sets(
    path: Path, extract: Callable[[str], Extraction], columns: Mapping[str, str] | None = None
) -> NamedSets:
    """Read a ``.csv``, ``.tsv``, ``.xlsx``, ``.json``, ``.jsonl`` or ``.npz`` file.

    Args:
        path: The file.
        extract: Finds the labels of free text.
        columns: What the columns ``name``, ``openset`` and ``reason`` are called in this file, some or all.

    Raises:
        DataError: The file is missing, empty, pickled or damaged, lacks a column or names a clip twice.
    """
    reader = RowReader(path, columns or {})
    # Archives are the published form, in which figures have to equal the published scorer's.
    as_published = path.suffix.lower() == ".npz"
    sets = NamedSets([], [], [])
    texts: list[str] = []
    places: dict[str, str] = {}
    num_words = 0
    blank: list[str] = []
    searched: list[str] = []
    cleaned: list[str] = []
    for row in reader.rows():
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
        labels, negated, source = _labels(row, path, extract, as_published=as_published)
        (searched if source == "text" else cleaned if source == "cleaned" else []).append(name)
        if not labels and row.labels is not None and isinstance(row.free_text, str) and row.free_text.strip():
            blank.append(name)
        num_words += len(labels)
        if num_words > _MOST_WORDS:
            raise DataError(f"{path}, {row.place}: more than {_MOST_WORDS:,} labels so far; split the file")
        sets.names.append(name)
        sets.labels.append(labels)
        sets.negated.append(negated)
        texts.append(row.free_text if isinstance(row.free_text, str) else "")
    if not sets.names:
        raise DataError(f"{path}: the file has no rows")
    notes = list(reader.notes)
    if blank:
        rows_have = counted(len(blank), "row has", "rows have")
        notes.append(f"{rows_have} text under {FREE_TEXT!r} and nothing under {LABELS!r}, such as {blank[0]}")
    if searched:
        rows = counted(len(searched), "row", "rows")
        notes.append(f"the labels of {rows} were searched for in free text; {AGREEMENT}")
    if cleaned:
        rows_have = counted(len(cleaned), "row has", "rows have")
        notes.append(
            f"{rows_have} tags, sentences, JSON or marks under {LABELS!r}, of which "
            f"the labels were taken, such as {cleaned[0]}; the published scorer splits them at commas as they are"
        )
    return sets._replace(notes=tuple(f"{path.name}: {note}." for note in notes), texts=texts, header=reader.header)


def _labels(
    row: Row, path: Path, extract: Callable[[str], Extraction], *, as_published: bool
) -> tuple[EmotionSet, tuple[str, ...], str]:
    """Return labels, negated spans, and where the labels are from."""
    given = row.labels if row.labels is not None else row.free_text
    if isinstance(given, str) and len(given) > _LONGEST_TEXT:
        raise DataError(f"{path}, {row.place}: {len(given):,} characters; an answer has at most {_LONGEST_TEXT:,}")
    if row.labels is None and isinstance(given, str):
        return extract(given)
    if isinstance(given, str) and not as_published:
        answer = read_answer(given, extract)
        if answer is not None:
            return _checked(answer, row, path), (), "cleaned"
    if isinstance(given, str) or (isinstance(given, list) and all(isinstance(word, str) for word in given)):
        return _checked(parse_labels(given), row, path), (), "list"
    if given is None:
        raise DataError(f"{path}, {row.place}: neither {LABELS!r} nor {FREE_TEXT!r}; give one, empty if need be")
    raise DataError(f"{path}, {row.place}: labels are text or a list of texts, not {type(given).__name__}")


def _checked(words: EmotionSet, row: Row, path: Path) -> EmotionSet:
    longest = max(map(len, words), default=0)
    if longest > _LONGEST_LABEL:
        raise DataError(
            f"{path}, {row.place}: a label of {longest:,} characters; labels are words between commas, "
            f"free text belongs under {FREE_TEXT!r}"
        )
    if len(words) > _MOST_LABELS:
        raise DataError(f"{path}, {row.place}: {len(words):,} labels; a clip has at most {_MOST_LABELS:,}")
    return words


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
    """Return both in the order of ``targets``, under its names; see :func:`.clip_names.pair_names` for what pairs.

    Raises:
        DataError: Names do not pair up; lists some.
    """
    pairs, notes = pair_names(predictions.names, targets.names, subset=subset)
    names = [targets.names[row] for _, row in pairs]
    answered, expected = (
        sets.of_rows(rows, names) for sets, rows in zip((predictions, targets), zip(*pairs, strict=True), strict=True)
    )
    return answered._replace(notes=(*answered.notes, *notes)), expected
