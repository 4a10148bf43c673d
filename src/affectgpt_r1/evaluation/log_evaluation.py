"""Keep an evaluation: files in its folder, metrics and artifacts in the loggers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.evaluation.tables import MEASURES, SYSTEMS, Summary, evaluation_tables, table_cells
from affectgpt_r1.io.console import PlainConsole
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.plain_json import json_text, write_json
from affectgpt_r1.io.untrusted_files import json_lines
from affectgpt_r1.metrics.bootstrap import STATISTICS
from affectgpt_r1.rewards.repetition import RepetitionReward
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger, mlflow_loggers

_TABLE_WIDTH = 160


def log_evaluation(loggers: Sequence[Logger], summary: Summary, folder: str | Path) -> dict[str, float]:
    """Write ``summary.json`` and ``tables.txt``, log and return the metrics ``test/<system>/<score>``.

    MLflow also gets ``evaluation/summary.json``, ``evaluation/tables.txt`` and the table ``evaluation/table.json``.

    Args:
        loggers: The run's loggers.
        summary: See :mod:`affectgpt_r1.evaluation.tables`.
        folder: Created if absent.
    """
    write_json(Path(folder) / "summary.json", summary)
    write_text(Path(folder) / "tables.txt", tables_text(summary))
    metrics = evaluation_metrics(summary)
    for logger in loggers:
        logger.log_metrics(metrics)
        logger.save()
    for tracked in mlflow_loggers(loggers):
        tracked.log_text(json_text(summary), "evaluation/summary.json")
        tracked.log_text(tables_text(summary), "evaluation/tables.txt")
        tracked.log_table(*table_cells(summary), "evaluation/table.json")
        if summary["split"] == "test":
            _log_on_judged_runs(tracked, summary, Path(folder) / "predictions")
    return metrics


def evaluation_metrics(summary: Summary) -> dict[str, float]:
    """Return the summary's scores as fractions by log name: ``test/sft/f1``, ``test/sft/without_video/drop``, ..."""
    metrics: dict[str, float] = {}
    for name in (system for system in SYSTEMS if system in summary):
        metrics |= {f"test/{name}/{key}": value for key, value in _system_metrics(summary[name]).items()}
    for name, difference in summary.get("differences", {}).items():
        metrics[f"test/{name}/f1"] = float(difference["f1"])
    return metrics


def _system_metrics(system: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of one system's part of the summary: ``f1``, ``without_video/drop``, ..."""
    scores: dict[str, float | None] = {score: system["mean_level1"].get(score) for score in STATISTICS}
    scores |= {measure: system.get(measure) for measure in MEASURES}
    for modality, without in system.get("without", {}).items():
        scores |= {f"without_{modality}/{key}": without.get(key) for key in ("f1", "drop")}
    return {key: float(value) for key, value in scores.items() if value is not None}


def _log_on_judged_runs(tracked: TrackedMLFlowLogger, summary: Summary, predictions: Path) -> None:
    """Log each system's scores on the run that trained it, and its answers as traces."""
    for name, run in summary["runs"].items():
        # By the names of training's own test: else the run's page would show each of them twice.
        groups = dict.fromkeys(MEASURES, "test/answers")
        scores = _system_metrics(summary[name])
        metrics = {f"{groups.get(key, 'test')}/{key}": value for key, value in scores.items()}
        metrics["test/num_clips"] = float(summary["num_clips"])
        file = predictions / f"{name}.jsonl"
        answers = (_with_marks(row) for _, row in json_lines(file)) if file.is_file() else ()
        folder = (tracked.outputs / run["checkpoint"]).parent.parent
        tracked.log_judgement(folder, metrics, run["step"] or 0, answers)


def _with_marks(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Add what a reader of traces filters by, with the rewards that follow from the words alone."""
    words = answer["openset"]
    # MLflow paints true green and false red.
    marks = {"words": len(words), "has_words": bool(words), "all_distinct": len(set(words)) == len(words)}
    completion = parse_completion(answer["completion"], enable_thinking=False)
    (repetition,) = RepetitionReward()(completions=[completion], targets=[()])
    rewards = {"accuracy": answer["f1"], "format": answer.get("well_formed"), "repetition": repetition}
    return {**answer, **marks, **{f"reward/{name}": score for name, score in rewards.items()}}


def tables_text(summary: Summary) -> str:
    """Return the tables as plain text, wide enough that no row is folded."""
    with Path(os.devnull).open("w", encoding="utf-8") as sink:
        console = PlainConsole(file=sink, record=True, width=_TABLE_WIDTH)
        for table in evaluation_tables(summary):
            console.print(table)
        return console.export_text()
