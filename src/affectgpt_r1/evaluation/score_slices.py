"""Scores by slice of the clips: by columns of the targets' file, by the target's cluster, by its number of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.points import points
from affectgpt_r1.evaluation.score_files import ScoredFiles
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.metrics.bootstrap import STATISTICS, bootstrap_intervals
from affectgpt_r1.metrics.functional.wheel_f1 import WheelCounts, wheel_counts
from affectgpt_r1.metrics.prediction_rows import LABELS, RowReader

USUAL = ("cluster", "length", "language", "modality")
"""Columns by which clips are sliced without being asked to; the first two are computed where there is none."""
_MOST_VALUES = 30
_MOST_NUMBERS = 8
_MANY_WORDS = 4
_NUM_RANGES = 4


def score_slices(
    scored: ScoredFiles,
    targets: Path,
    by: Sequence[str] = (),
    level: int = 1,
    columns: Mapping[str, str] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score each slice of the clips.

    Args:
        scored: The answers and targets.
        targets: The file of targets, for its columns.
        by: Columns of it, or ``cluster`` (on wheel 1; a clip is in the slice of each) and ``length`` (words of the
            target); by default those of :data:`USUAL` that are columns. Many distinct numbers become four ranges.
        level: Ring of the wheels.
        columns: What ``name`` is called in ``targets``.

    Returns:
        By column and value ``clips``, ``f1``, ``precision``, ``recall``, and ``interval`` of F1; scores are None where
        no target of a slice counts.

    Raises:
        DataError: There is no such column, or it has too many values.
    """
    header = scored.expected.header
    counts = wheel_counts(scored.answered.labels, scored.expected.labels, scored.lexicon, level)
    report = {}
    for column in by or [name for name in USUAL if name in header]:
        if column in header:
            slices = _by_values(_column(targets, column, columns or {}, scored.expected.names), column, targets)
        elif column == "cluster":
            slices = _by_cluster(scored)
        elif column == "length":
            sizes = [min(_MANY_WORDS, len(words)) for words in scored.expected.labels]
            slices = {str(size): [row for row, own in enumerate(sizes) if own == size] for size in sorted(set(sizes))}
            slices = {f"{size} or more" if size == str(_MANY_WORDS) else size: rows for size, rows in slices.items()}
        else:
            raise DataError(f"{targets}: no column {column!r} for --by; it has {', '.join(map(repr, header))}")
        report[column] = {value: _scores(counts, rows) for value, rows in slices.items()}
    return report


def _column(path: Path, column: str, columns: Mapping[str, str], names: Sequence[str]) -> list[str]:
    rows = RowReader(path, {role: name for role, name in columns.items() if name != column} | {LABELS: column}).rows()
    value_of = {str(row.name).strip(): "" if row.labels is None else str(row.labels).strip() for row in rows}
    return [value_of.get(name, "") for name in names]


def _by_values(values: Sequence[str], column: str, path: Path) -> dict[str, list[int]]:
    distinct = sorted(set(values))
    numbers = _numbers(distinct)
    if numbers is not None and len(distinct) > _MOST_NUMBERS:
        return _by_range([float(value) for value in values])
    if len(distinct) > _MOST_VALUES:
        raise DataError(f"{path}: column {column!r} has {len(distinct)} values; --by takes up to {_MOST_VALUES}")
    if numbers is not None:
        distinct.sort(key=float)
    return {value or "(empty)": [row for row, own in enumerate(values) if own == value] for value in distinct}


def _numbers(texts: Iterable[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _by_range(values: Sequence[float]) -> dict[str, list[int]]:
    edges = np.quantile(values, np.linspace(0, 1, _NUM_RANGES + 1))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _NUM_RANGES - 1)
    return {
        f"{edges[part]:g} to {edges[part + 1]:g}": np.flatnonzero(place == part).tolist()
        for part in range(_NUM_RANGES)
        if (place == part).any()
    }


def _by_cluster(scored: ScoredFiles) -> dict[str, list[int]]:
    slices: dict[str, list[int]] = {}
    for row, words in enumerate(scored.expected.labels):
        for cluster in {scored.lexicon.cluster(word, 1) for word in words} - {None}:
            slices.setdefault(str(cluster), []).append(row)
    return dict(sorted(slices.items()))


def _scores(counts: WheelCounts, rows: Sequence[int]) -> dict[str, Any]:
    own = WheelCounts(*(part[rows] for part in counts))
    intervals = bootstrap_intervals({"": own}).get("")
    report: dict[str, Any] = {"clips": len(rows), "interval": list(intervals["f1"][1:]) if intervals else None}
    for statistic in STATISTICS:
        report[statistic] = intervals[statistic].estimate if intervals else None
    return report


def slice_tables(report: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Table]:
    """Return a table for each column of :func:`score_slices`."""
    return [_table(column, slices) for column, slices in report.items()]


def _table(column: str, slices: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=f"By {column}, {counted(len(slices), 'slice', 'slices')}", title_justify="left")
    table.add_column(column)
    for heading in ("clips", "F1", "P", "R"):
        table.add_column(heading, justify="right", no_wrap=True)
    for value, row in slices.items():
        f1 = points(row["f1"], row["interval"])
        table.add_row(value, str(row["clips"]), f1, points(row["precision"]), points(row["recall"]))
    return table
