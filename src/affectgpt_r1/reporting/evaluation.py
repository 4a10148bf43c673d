"""Where an evaluation's figures are kept: files in the output folder, metrics and artifacts in the logger."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from rich.console import Console

from affectgpt_r1.reporting.logger import finite_or_none, mlflow_loggers
from affectgpt_r1.reporting.tables import MEASURES, SCORES, SYSTEMS, Summary, evaluation_tables, table_cells

_TABLE_WIDTH = 160


def write_evaluation(summary: Summary, folder: str | Path) -> Path:
    """Write ``summary.json`` and the tables as ``tables.txt``.

    Args:
        summary: See :mod:`affectgpt_r1.reporting.tables`.
        folder: Created if absent.

    Returns:
        The path of ``summary.json``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    _replace(path, _json(summary))
    _replace(folder / "tables.txt", tables_text(summary))
    return path


def log_evaluation(loggers: Sequence[Logger], summary: Summary, folder: str | Path) -> dict[str, float]:
    """Write the evaluation to ``folder`` and log it: metrics ``test/<system>/<score>``, and with MLflow artifacts.

    The artifacts are ``evaluation/summary.json``, ``evaluation/tables.txt`` and the table ``evaluation/table.json``.

    Args:
        loggers: The run's loggers.
        summary: See :mod:`affectgpt_r1.reporting.tables`.
        folder: Where the files are written.

    Returns:
        The metrics that were logged.
    """
    write_evaluation(summary, folder)
    metrics = evaluation_metrics(summary)
    for logger in loggers:
        logger.log_metrics(metrics)
        logger.save()
    for tracked in mlflow_loggers(loggers):
        tracked.log_text(_json(summary), "evaluation/summary.json")
        tracked.log_text(tables_text(summary), "evaluation/tables.txt")
        tracked.log_table(*table_cells(summary), "evaluation/table.json")
    return metrics


def evaluation_metrics(summary: Summary) -> dict[str, float]:
    """Return the summary's figures by log name: ``test/sft/f1``, ``test/sft/without_video/drop``, ...

    Args:
        summary: See :mod:`affectgpt_r1.reporting.tables`.

    Returns:
        Scores as fractions.
    """
    metrics: dict[str, float] = {}
    for name in (system for system in SYSTEMS if system in summary):
        system = summary[name]
        scores = {score: system["mean_level1"].get(score) for score in SCORES}
        scores |= {measure: system.get(measure) for measure in MEASURES}
        for modality, figures in system.get("without", {}).items():
            scores |= {f"without_{modality}/{key}": figures.get(key) for key in ("f1", "drop")}
        metrics |= {f"test/{name}/{key}": float(value) for key, value in scores.items() if value is not None}
    for name, difference in summary.get("differences", {}).items():
        metrics[f"test/{name}/f1"] = float(difference["f1"])
    return metrics


def tables_text(summary: Summary) -> str:
    """Return the tables as plain text, wide enough that no row is folded."""
    with Path(os.devnull).open("w", encoding="utf-8") as sink:
        console = Console(file=sink, record=True, width=_TABLE_WIDTH)
        for table in evaluation_tables(summary):
            console.print(table)
        return console.export_text()


def _json(summary: Summary) -> str:
    return json.dumps(_plain(summary), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """NaN, as of a score of no clips, has no word in JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return finite_or_none(value)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
