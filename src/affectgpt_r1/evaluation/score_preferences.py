"""Score a file of preferences: ``affectgpt-r1 prefer``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.points import points
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.metrics.clip_names import pair_names
from affectgpt_r1.metrics.functional.preference import (
    FIRST,
    NEITHER,
    SECOND,
    preference_scores,
    rank_systems,
    swap_consistency,
)
from affectgpt_r1.metrics.prediction_rows import FREE_TEXT, LABELS, RowReader

_ANSWERS = {
    **dict.fromkeys(("a1", "1", "first", "answer1", "description1"), FIRST),
    **dict.fromkeys(("a2", "2", "second", "answer2", "description2"), SECOND),
    **dict.fromkeys(("same", "tie", "equal", "both", "neither", "0"), NEITHER),
}
_NOT_WORD = re.compile(r"[\W_]+")
_SYSTEMS = ("system1", "system2")
_TITLES = {
    "two_class": "two classes, as published",
    "two_class_strict": "two classes, an answered `same` is wrong",
    "three_class": "three classes",
}


class Preferences(NamedTuple):
    """The pairs of a file."""

    names: list[str]
    answers: list[str | None]  # None: could not be read
    systems: tuple[list[str], list[str]] | None  # that wrote the first and the second description, where the file says


def read_preferences(path: Path, column: str = "preference") -> Preferences:
    """Read ``name`` and ``preference`` (a1, a2 or same) of each pair.

    Raises:
        DataError: The file cannot be read, has no such column, or names a pair twice.
    """
    names: dict[str, str] = {}
    answers: list[str | None] = []
    reader = RowReader(path, {LABELS: column})
    for row in reader.rows():
        name = str(row.name).strip()
        if not name or name in names:
            where = f"is in {names[name]} already; keep one" if name else "is empty; give the pair's name"
            raise DataError(f"{path}, {row.place}: the name {name!r} {where}")
        names[name] = row.place
        answers.append(_ANSWERS.get(_NOT_WORD.sub("", str(row.labels)).lower()))
    if not names:
        raise DataError(f"{path}: the file has no rows")
    return Preferences(list(names), answers, _read_systems(path) if set(_SYSTEMS) <= set(reader.header) else None)


def _read_systems(path: Path) -> tuple[list[str], list[str]]:
    first, second = _SYSTEMS
    rows = list(RowReader(path, {LABELS: first, FREE_TEXT: second}).rows())
    return [str(row.labels).strip() for row in rows], [str(row.free_text).strip() for row in rows]


def score_preferences(predictions: Path, targets: Path | None, swapped: Path | None = None) -> dict[str, Any]:
    """Score the preferences of a file.

    Args:
        predictions: Answers; with columns ``system1`` and ``system2`` the systems are ranked by them.
        targets: The right answers; None where only consistency or the ranking is wanted.
        swapped: The same system's answers to the same pairs, the descriptions swapped.

    Returns:
        ``pairs``; ``answered``, how often each answer was given; and, where it could be computed, ``scores`` of
        :func:`~.preference.preference_scores`, ``swap_consistency`` and ``ranking``.

    Raises:
        DataError: A file is at fault, or a pair has no answer.
    """
    given = read_preferences(predictions)
    report: dict[str, Any] = {
        "pairs": len(given.names),
        "answered": dict(Counter("unreadable" if answer is None else answer for answer in given.answers)),
        "notes": [],
    }
    if targets is not None:
        wanted = read_preferences(targets)
        if None in wanted.answers:
            bad = wanted.names[wanted.answers.index(None)]
            raise DataError(f"{targets}: the target of {bad!r} is none of a1, a2 and same")
        pairs, notes = pair_names(given.names, wanted.names)
        report["notes"] += notes
        right = [answer for answer in wanted.answers if answer is not None]
        report["scores"] = preference_scores([given.answers[row] for row, _ in pairs], [right[row] for _, row in pairs])
    if swapped is not None:
        other = read_preferences(swapped)
        pairs, notes = pair_names(other.names, given.names)
        report["notes"] += notes
        report["swap_consistency"] = swap_consistency(given.answers, [other.answers[row] for row, _ in pairs])
    if given.systems is not None:
        report["ranking"] = [rank._asdict() for rank in rank_systems(*given.systems, given.answers)]
    return report


def preference_tables(report: Mapping[str, Any]) -> list[Table | str]:
    """Return tables and lines of :func:`score_preferences`."""
    shown: list[Table | str] = []
    if "scores" in report:
        table = Table(title=f"Preferences ({counted(report['pairs'], 'pair', 'pairs')})", title_justify="left")
        for column in ("", "pairs", "WAF", "ACC"):
            table.add_column(column, justify="right" if column else "left")
        for kind, scores in report["scores"].items():
            if scores:
                values = (points(scores["waf"]), points(scores["accuracy"]))
                table.add_row(_TITLES[kind], f"{scores['scored']:.0f}", *values)
        shown.append(table)
    shown.append(
        "Answered: " + ", ".join(f"{name} {count}" for name, count in sorted(report["answered"].items())) + "."
    )
    if "swap_consistency" in report:
        shown.append(f"{points(report['swap_consistency'])} % of the answers stay when the two change places.")
    if "ranking" in report:
        shown.append(_ranking_table(report["ranking"]))
    return [*shown, *report["notes"]]


def _ranking_table(ranking: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Systems by Bradley-Terry strength, 95 % bootstrap interval over pairs", title_justify="left")
    for column in ("system", "strength", "interval", "won", "pairs"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for rank in ranking:
        bounds = f"{rank['low']:.2f} to {rank['high']:.2f}"
        table.add_row(rank["system"], f"{rank['strength']:.2f}", bounds, f"{rank['won']:g}", str(rank["played"]))
    return table
