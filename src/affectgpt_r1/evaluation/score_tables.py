"""Tables of the scores of a file of predictions, in points (times 100)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from affectgpt_r1.evaluation.points import points
from affectgpt_r1.io.clean_text import counted

_GROUPS = {"lexicon": "the lexicon's synonyms", "groupings": "cached groupings"}
_COLUMNS = {"f1": "F1", "precision": "P", "recall": "R"}


def score_tables(report: Mapping[str, Any], level: int) -> list[Table]:
    """Return a table of the mean over the wheels next to constant answers, and one of every other score.

    Args:
        report: From :func:`~affectgpt_r1.metrics.corpus_report.corpus_report`.
        level: Ring of the wheels.
    """
    return [_means(report, level), _details(report, level)]


def _means(report: Mapping[str, Any], level: int) -> Table:
    samples = counted(report["samples"], "sample", "samples")
    table = _table(f"Emotion-wheel score, level {level}, mean over five wheels ({samples}, {report['lexicon']})")
    key = f"mean_level{level}"
    table.add_row("predictions", *_cells(report, key))
    constant, frequent = report["baselines"]["constant"], report["baselines"]["frequent"]
    table.add_row(f"always “{', '.join(constant['words'])}”", *_cells(constant, key))
    table.add_row(f"always “{', '.join(frequent['words'])}” (most frequent targets)", *_cells(frequent, key))
    table.caption = "95 % bootstrap intervals over samples. The metric rewards constant answers: compare with them."
    return table


def _details(report: Mapping[str, Any], level: int) -> Table:
    table = _table("Other scores")
    names = {"case1": "base forms (case1)", "case2": "synonyms (case2)"}
    for wheel, number in enumerate(report["counted"].values(), start=1):
        samples_count = counted(number, "sample counts", "samples count")
        names[f"case3_wheel{wheel}_level{level}"] = f"wheel {wheel}, level {level} ({samples_count})"
    names[f"mean_level{3 - level}"] = f"mean over wheels, level {3 - level}"
    names["mer2025_challenge"] = "mean of both levels (mer2025_challenge)"
    for key, name in names.items():
        table.add_row(name, *_cells(report, key))
    for kind, metrics in report.get("mer2024", {}).items():
        values = [metrics[key] for key in ("mean", "accuracy_s", "recall_s")]
        table.add_row(f"MER2024: mean, Accuracy_s, Recall_s ({_GROUPS[kind]})", *map(points, values))
    if track1 := report.get("track1"):
        of_track1 = map(points, (track1["waf"], track1["accuracy"]))
        table.add_row("track 1, six classes: WAF, ACC (an answer of several is wrong)", *of_track1)
    words = ", ".join(f"{word} ({count})" for word, count in report.get("unmapped_words", ()))
    table.caption = (
        f"{100 * report['unmapped_rate']:.1f} % of the predicted words map onto no wheel{': ' * bool(words)}{words}"
    )
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in _COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(report: Mapping[str, Any], key: str) -> list[str]:
    bounds = report["intervals"].get(key, {})
    return [points(report["scores"][key].get(statistic), bounds.get(statistic)) for statistic in _COLUMNS]
