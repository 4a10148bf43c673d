"""Count and list clips that could not be read; end the run when they are too many."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.distributed.collectives import all_gather_objects
from affectgpt_r1.io.clean_text import printable
from affectgpt_r1.io.csv_format import spreadsheet_cell
from affectgpt_r1.io.files import write_text
from affectgpt_r1.tracking.mlflow_logger import mlflow_loggers

log = logging.getLogger(__name__)


class UnreadableClipsMonitor(pl.Callback):
    """Count drawn clips that could not be read; report them when training ends, and end it when they are too many.

    The report is a warning in the log, ``<folder>/unreadable_clips.csv`` without formulas, the metric
    ``train/unreadable_clips`` and, with MLflow, the artifact ``data/unreadable_clips.csv``.

    Args:
        folder: This run's output folder.
        max_fraction: Largest fraction of the drawn clips that may be unreadable.
        judge_after: Clips to draw before the fraction is judged; at the end of training it is judged in any case.

    Attributes:
        skipped: The clips of this process so far; those that an earlier step of the run has met can be merged into it.
    """

    def __init__(self, folder: str | Path, max_fraction: float = 0.02, judge_after: int = 100) -> None:
        self._folder = Path(folder)
        self._max_fraction = max_fraction
        self._judge_after = judge_after
        self._reported = False
        self.skipped = UnreadableClips()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count a training batch."""
        self.skipped.add_batch(batch)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count a validation batch."""
        self.skipped.add_batch(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raise :class:`DataError` once too many are lost."""
        if self.skipped.total >= self._judge_after:
            self.skipped.raise_if_over(self._max_fraction)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, then judge, by what all processes have lost."""
        skipped = UnreadableClips()
        skipped.merge(all_gather_objects(self.skipped))
        self._report(trainer, skipped)
        skipped.raise_if_over(self._max_fraction)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report for a run that was killed after its last step: resumed, its training neither begins nor ends."""
        if not self._reported:
            self.on_train_end(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Report what was lost until then."""
        if not self._reported:
            self._report(trainer, self.skipped)

    def process_state(self) -> dict[str, Any]:
        """Return the clips so far."""
        return {"skipped": self.skipped.state_dict()}

    def load_process_state(self, state: Mapping[str, Any]) -> None:
        """Add the clips of the run's earlier parts."""
        if "skipped" in state:
            earlier = UnreadableClips()
            earlier.load_state_dict(state["skipped"])
            self.skipped.merge([earlier])

    def _report(self, trainer: pl.Trainer, skipped: UnreadableClips) -> None:
        self._reported = True
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_metrics({"train/unreadable_clips": float(skipped.count)}, step=trainer.global_step)
        if not skipped.count:
            return
        rows = [(name, reason) for name, reason, _ in skipped.rows()]
        log.warning("%d of %d clips drawn could not be read:", skipped.count, skipped.total)
        for name, reason in rows:
            log.warning("  %s: %s", name, reason)
        text = _csv(rows)
        write_text(self._folder / "unreadable_clips.csv", text)
        for tracked in mlflow_loggers(trainer.loggers):
            tracked.log_text(text, "data/unreadable_clips.csv")


def add_unreadable(trainer: pl.Trainer, clips: UnreadableClips) -> None:
    """Add clips that were met before training, while they were encoded, to those of the trainer's monitor."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
        if isinstance(callback, UnreadableClipsMonitor):
            callback.skipped.merge([clips])


def _csv(rows: list[tuple[str, str]]) -> str:
    text = io.StringIO()
    shown = [tuple(spreadsheet_cell(printable(cell)) for cell in row) for row in rows]
    csv.writer(text).writerows([("name", "reason"), *shown])
    return text.getvalue()
