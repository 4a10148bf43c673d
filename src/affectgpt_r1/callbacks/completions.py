"""What the policy says while it trains: a table of completions every N steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich import get_console
from rich.table import Table
from rich.text import Text

from affectgpt_r1.reporting.logger import Cell, mlflow_loggers
from affectgpt_r1.reporting.plain_json import finite_or_none
from affectgpt_r1.types import CompletionRecord


class CompletionsTable(pl.Callback):
    """Logs the completions of the first step and of every N-th.

    With an MLflow logger the table is the artifact ``completions/step_000050.json``; without, it is
    ``<folder>/completions/step_000050.jsonl``. Stages that sample nothing give no records and no table.

    Args:
        folder: This run's output folder.
        every_n_steps: Optimiser steps between two tables.
        console_rows: Rows also printed on the console; 0 prints none.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 50, console_rows: int = 4) -> None:
        self._folder = Path(folder)
        self._every_n_steps = every_n_steps
        self._console_rows = console_rows
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the batch's records if the step is due; ``outputs`` is what ``training_step`` returned."""
        step = trainer.global_step
        due = step == 1 or (step > 0 and step % self._every_n_steps == 0)
        records: Sequence[CompletionRecord] = outputs.get("records", ()) if isinstance(outputs, dict) else ()
        # Under gradient accumulation several batches end at one step.
        if not due or step == self._last_step or not records or not trainer.is_global_zero:
            return
        self._last_step = step
        columns, rows = completion_rows(records, step)
        tracked = mlflow_loggers(trainer.loggers)
        for logger in tracked:
            logger.log_table(columns, rows, f"completions/step_{step:06d}.json")
        if not tracked:
            _write_jsonl(self._folder / "completions" / f"step_{step:06d}.jsonl", columns, rows)
        if self._console_rows:
            get_console().print(console_table(records[: self._console_rows], step))


def completion_rows(records: Sequence[CompletionRecord], step: int) -> tuple[list[str], list[list[Cell]]]:
    """Return column names and rows of a completions table.

    Args:
        records: The completions of one batch, in order.
        step: The optimiser step that they belong to.

    Returns:
        The columns ``step name target completion``, one per reward part, ``reward advantage prompt``; and the rows.
        A reward part that does not apply is None. The prompt, long and much the same in every row, stands last.
    """
    parts = list(dict.fromkeys(part for record in records for part in record.rewards))
    columns = ["step", "name", "target", "completion", *parts, "reward", "advantage", "prompt"]
    rows: list[list[Cell]] = [
        [
            *(step, record.name, record.target, record.completion),
            *(record.rewards.get(part) for part in parts),
            *(record.reward, record.advantage, record.prompt),
        ]
        for record in records
    ]
    return columns, rows


def console_table(records: Sequence[CompletionRecord], step: int) -> Table:
    """Return the table for the console, which has room for what was said and what it earned only."""
    columns, rows = completion_rows(records, step)
    shown = [index for index, column in enumerate(columns) if column not in ("step", "name", "prompt")]
    table = Table(title=f"Completions at step {step}", title_justify="left")
    for index in shown:
        is_text = columns[index] in ("target", "completion")
        table.add_column(columns[index], justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(_console_cell(row[index]) for index in shown))
    return table


def _console_cell(cell: Cell) -> Text:
    if cell is None:
        return Text("-")
    return Text(f"{cell:.3f}" if isinstance(cell, float) else str(cell))


def _write_jsonl(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (dict(zip(columns, map(finite_or_none, row), strict=True)) for row in rows)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
