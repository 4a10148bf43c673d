"""A table of the policy's completions every N steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.table import Table

from affectgpt_r1.io.clean_text import json_line
from affectgpt_r1.io.console import get_console
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.plain_json import finite_or_none
from affectgpt_r1.tracking.mlflow_logger import Cell, mlflow_loggers
from affectgpt_r1.types import CompletionRecord


class CompletionsTable(pl.Callback):
    """Log the completions of the first optimizer step and of every N-th, those of all its micro-batches.

    With an MLflow logger the table is the artifact ``completions/step_000050.json``; without, it is
    ``<folder>/completions/step_000050.jsonl``. Stages that sample nothing give no records and no table.

    ``console_rows`` of them are also printed on the console.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 50, console_rows: int = 4) -> None:
        self._folder = Path(folder)
        self._every_n_steps = every_n_steps
        self._console_rows = console_rows
        self._last_step = 0
        self._pending: list[CompletionRecord] = []  # of micro-batches whose optimizer step is still to come

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue at the step of a resumed run."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the records of a step that is complete and due."""
        self._pending.extend(outputs.get("records", ()) if isinstance(outputs, dict) else ())
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step, records, self._pending = step, self._pending, []
        due = step == 1 or step % self._every_n_steps == 0
        if not due or not records or not trainer.is_global_zero:
            return
        columns, rows = completion_rows(records, step)
        tracked = mlflow_loggers(trainer.loggers)
        for logger in tracked:
            logger.log_table(columns, rows, f"completions/step_{step:06d}.json")
        if not tracked:
            _write_jsonl(self._folder / "completions" / f"step_{step:06d}.jsonl", columns, rows)
        if self._console_rows:
            get_console().print(console_table(records[: self._console_rows], step))

    def state_dict(self) -> dict[str, Any]:
        """Return the completions of a step that was cut between its micro-batches."""
        return {"pending": [dataclasses.asdict(record) for record in self._pending]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._pending = [CompletionRecord(**record) for record in state_dict["pending"]]


def completion_rows(records: Sequence[CompletionRecord], step: int) -> tuple[list[str], list[list[Cell]]]:
    """Return column names and rows of a completions table; a reward function that does not apply is None."""
    functions = list(dict.fromkeys(name for record in records for name in record.rewards))
    # The prompt, long and much the same in every row, comes last.
    columns = ["step", "name", "target", "completion", *functions, "reward", "advantage", "prompt"]
    rows: list[list[Cell]] = [
        [
            *(step, record.name, record.target, record.completion),
            *(record.rewards.get(name) for name in functions),
            *(record.reward, record.advantage, record.prompt),
        ]
        for record in records
    ]
    return columns, rows


def console_table(records: Sequence[CompletionRecord], step: int) -> Table:
    """Return the table for the console, which has no room for step, name and prompt."""
    columns, rows = completion_rows(records, step)
    shown = [index for index, column in enumerate(columns) if column not in ("step", "name", "prompt")]
    table = Table(title=f"Completions at step {step}", title_justify="left")
    for index in shown:
        is_text = columns[index] in ("target", "completion")
        table.add_column(columns[index], justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(_console_cell(row[index]) for index in shown))
    return table


def _console_cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _write_jsonl(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    lines = (dict(zip(columns, map(finite_or_none, row), strict=True)) for row in rows)
    write_text(path, "".join(map(json_line, lines)), flush=False)
