"""Tables of an evaluation: systems next to each other, wheel by wheel, without each modality, paired differences.

Every table reads one summary, the content of ``summary.json``; scores are fractions there and points (times 100) here:

``synthetic`` bool, ``lexicon``, ``experiment``, ``num_clips``, ``notes`` (what differs from training, or between the
systems); one entry per system, ``sft``, ``control``, ``grpo`` (absent ones have no row), and ``baselines`` by the words
of the constant answer. A system has ``mean_level1`` (``f1``,
``precision``, ``recall``), ``interval`` (``[low, high]`` by the same names), ``wheels`` (the same scores by wheel),
``words_per_answer``, ``distinct_words``, ``repeated_words``, ``format_rate``, ``unmapped_rate``, and ``without``
(``f1``, ``drop``, ``interval`` by modality left out). ``differences`` holds ``f1`` and ``interval`` by name, such as
``grpo_minus_sft``. ``runs`` holds ``checkpoint``, ``stage``, ``step``, ``seed``, ``git_commit`` and ``finished`` by
system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from rich.table import Table

from affectgpt_r1.evaluation.points import points
from affectgpt_r1.metrics.bootstrap import STATISTICS

Summary: TypeAlias = Mapping[str, Any]

SYSTEMS = ("sft", "control", "grpo")
MEASURES = {
    "words_per_answer": "words",
    "distinct_words": "distinct",
    "repeated_words": "repeated",
    "format_rate": "in format %",
    "unmapped_rate": "unmapped %",
}
SYNTHETIC_NOTE = (
    "Synthetic clips, whose small encoders were pretrained on the cues that the renderer recorded "
    "(stage=pretrain_encoders). Not comparable with metrics on recorded clips."
)
_ABSENT = ""
_PERCENTAGES = ("format_rate", "unmapped_rate")
_points = partial(points, digits=1)


def evaluation_tables(summary: Summary) -> list[Table]:
    """Return every table that the summary has metrics for, the comparison first."""
    makers = (comparison_table, answer_table, wheel_table, modality_table, difference_table, run_table)
    return [table for table in (make(summary) for make in makers) if table.row_count]


def comparison_table(summary: Summary) -> Table:
    """Return one row per system and baseline: F1, P and R in points with 95 % intervals."""
    table = _table(summary, f"Level-1 emotion-wheel score, {summary['lexicon']} lexicon", ["system", "F1", "P", "R"])
    for name, system in _all_systems(summary).items():
        table.add_row(name, *(_score(system, key) for key in STATISTICS))
    if summary["synthetic"]:
        table.caption = "\n".join(filter(None, (SYNTHETIC_NOTE, _notes(summary))))
    return table


def answer_table(summary: Summary) -> Table:
    """Return one row per system: words, repeated words and format rate."""
    table = _table(summary, "Answers", ["system", *MEASURES.values()])
    for name in (name for name in SYSTEMS if name in summary):
        table.add_row(_shown(name), *(_measure(summary[name], key) for key in MEASURES))
    return table


def wheel_table(summary: Summary) -> Table:
    """Return one row per system and baseline: F1 in points on each wheel."""
    systems = {name: system for name, system in _all_systems(summary).items() if system.get("wheels")}
    wheels = list(dict.fromkeys(wheel for system in systems.values() for wheel in system["wheels"]))
    table = _table(summary, "F1 by wheel", ["system", *wheels])
    for name, system in systems.items():
        table.add_row(name, *(_points(system["wheels"].get(wheel, {}).get("f1")) for wheel in wheels))
    return table


def modality_table(summary: Summary) -> Table:
    """Return one row per system: the drop of F1 in points, with its interval, for each modality left out."""
    systems = {name: summary[name] for name in SYSTEMS if summary.get(name, {}).get("without")}
    modalities = list(dict.fromkeys(modality for system in systems.values() for modality in system["without"]))
    table = _table(summary, "Drop of F1 without a modality", ["system", *(f"without {name}" for name in modalities)])
    for name, system in systems.items():
        drops = (system["without"].get(modality, {}) for modality in modalities)
        table.add_row(_shown(name), *(_points(drop.get("drop"), drop.get("interval"), signed=True) for drop in drops))
    return table


def difference_table(summary: Summary) -> Table:
    """Return one row per paired difference of F1 in points, with its interval."""
    table = _table(summary, "Paired differences of F1", ["difference", "F1"])
    for name, difference in summary.get("differences", {}).items():
        shown = " - ".join(_shown(side) for side in name.split("_minus_"))
        table.add_row(shown, _points(difference["f1"], difference.get("interval"), signed=True))
    return table


def run_table(summary: Summary) -> Table:
    """Return one row per system: which run it is, and at which step its weights were best."""
    table = _table(summary, "Runs", ["system", "checkpoint", "stage", "step", "seed", "commit", "state"])
    table.columns[1].justify, table.columns[1].no_wrap, table.columns[1].overflow = "left", False, "fold"
    for name, run in summary.get("runs", {}).items():
        cells = (run["checkpoint"], run["stage"], run["step"], run["seed"], (run["git_commit"] or _ABSENT)[:7])
        state = "finished" if run["finished"] else "unfinished"
        table.add_row(_shown(name), *(_ABSENT if cell is None else str(cell) for cell in cells), state)
    return table


def table_cells(summary: Summary) -> tuple[list[str], list[list[str | float | None]]]:
    """Return the comparison as plain columns and rows, scores as fractions, for an artifact."""
    bounds = [f"f1_{end}" for end in ("low", "high")]
    columns = ["system", *STATISTICS, *bounds, *MEASURES]
    rows: list[list[str | float | None]] = []
    for name, system in _all_systems(summary).items():
        low, high = system.get("interval", {}).get("f1", (None, None))
        scores = (system["mean_level1"].get(score) for score in STATISTICS)
        rows.append([name, *scores, low, high, *(system.get(measure) for measure in MEASURES)])
    return columns, rows


def _shown(system: str) -> str:
    return "control" if system == "control" else system.upper()


def _all_systems(summary: Summary) -> dict[str, Summary]:
    systems = {_shown(name): summary[name] for name in SYSTEMS if name in summary}
    return systems | {f"always “{words}”": system for words, system in summary.get("baselines", {}).items()}


def _table(summary: Summary, what: str, columns: Sequence[str]) -> Table:
    kind = "synthetic clips" if summary["synthetic"] else "clips"
    table = Table(
        title=f"{what} ({summary['num_clips']} {kind}, {summary['experiment']})",
        title_justify="left",
        caption=_notes(summary) or None,
    )
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _notes(summary: Summary) -> str:
    return "\n".join(f"{note[:1].upper()}{note[1:]}." for note in summary.get("notes", ()))


def _score(system: Summary, key: str) -> str:
    return _points(system["mean_level1"].get(key), system.get("interval", {}).get(key))


def _measure(system: Summary, key: str) -> str:
    value = system.get(key)
    if key in _PERCENTAGES or value is None:
        return _points(value)
    return f"{value:.2f}"
