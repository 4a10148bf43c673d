"""Progress of training: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, Timer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from affectgpt_r1.io.clean_text import printable
from affectgpt_r1.io.console import get_console

SHOWN_METRICS: Mapping[str, str] = {"loss": "train/loss", "reward": "train/reward", "F1": "val/f1"}  # by log name


def progress_bar(stage: str, every_n_steps: int = 25) -> ProgressBar:
    """Return :class:`LiveProgress` on a terminal, :class:`PlainProgress` elsewhere (a pipe, a CI log)."""
    return LiveProgress(stage) if get_console().is_interactive else PlainProgress(stage, every_n_steps)


class LiveProgress(ProgressBar):
    """Show one bar over all steps of the run, with the stage's name, and one during each validation and test."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = printable(stage)
        self._enabled = True
        self._progress: Progress | None = None
        self._train_task: TaskID | None = None
        self._eval_task: TaskID | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the step that the run continues from."""
        start = trainer.global_step
        self._train_task = self._live().add_task(self._stage, total=total_steps(trainer), completed=start, metrics="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        self._show_metrics(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the new validation score and close the validation's bar."""
        self._show_metrics(trainer)
        self._close_eval_bar()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the validation's bar."""
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._advance_eval_bar("validation", batches[dataloader_idx], batch_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the test's bar."""
        self._advance_eval_bar("test", trainer.num_test_batches[dataloader_idx], batch_idx)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the console."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the console before the error is printed."""
        self._stop()

    def disable(self) -> None:
        """Show nothing: Lightning calls this on every rank but the first."""
        self._stop()
        self._enabled = False

    def enable(self) -> None:
        """Show the bars."""
        self._enabled = True

    def _live(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[metrics]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=get_console(),
                speed_estimate_period=600.0,  # a GRPO step may take longer than rich's 30 s
                disable=not self._enabled,
            )
            self._progress.start()
        return self._progress

    def _show_metrics(self, trainer: pl.Trainer) -> None:
        if self._train_task is not None and self._enabled:
            metrics = "  ".join(f"{name} {value:.3f}" for name, value in shown_metrics(trainer).items())
            if (limit := time_limit_left(trainer)) is not None:
                metrics += f"  wall time left {timedelta(seconds=round(limit))}"
            self._live().update(self._train_task, completed=trainer.global_step, metrics=metrics)

    def _advance_eval_bar(self, name: str, total: float, batch_idx: int) -> None:
        progress = self._live()
        if self._eval_task is None:
            self._eval_task = progress.add_task(name, total=total if math.isfinite(total) else None, metrics="")
        progress.update(self._eval_task, completed=batch_idx + 1)

    def _close_eval_bar(self) -> None:
        if self._progress is not None and self._eval_task is not None:
            self._progress.remove_task(self._eval_task)
        self._eval_task = None

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._train_task = self._eval_task = None


class PlainProgress(ProgressBar):
    """Print one line every N optimizer steps and one after each validation."""

    def __init__(self, stage: str, every_n_steps: int = 25) -> None:
        super().__init__()
        self._stage = printable(stage)
        self._every_n_steps = every_n_steps
        self._enabled = True
        self._first_step = 0
        self._last_step = 0
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._first_step = self._last_step = trainer.global_step
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if the step is due."""
        step = trainer.global_step
        if step != self._last_step and (step % self._every_n_steps == 0 or step == total_steps(trainer)):
            self._last_step = step
            self._print(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the validation's score."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._print(trainer)

    def disable(self) -> None:
        """Print nothing: Lightning calls this on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Print the lines."""
        self._enabled = True

    def _print(self, trainer: pl.Trainer) -> None:
        if not self._enabled:
            return
        total = total_steps(trainer)
        metrics = [f"{name} {value:.3f}" for name, value in shown_metrics(trainer).items()]
        elapsed = time.monotonic() - self._started
        paced = seconds_left(trainer.global_step - self._first_step, elapsed, trainer.global_step, total)
        left = min((bound for bound in (paced, time_limit_left(trainer)) if bound is not None), default=None)
        times = [f"{timedelta(seconds=round(elapsed))} elapsed"]
        times += [] if left is None else [f"{timedelta(seconds=round(left))} left"]
        steps = f"{trainer.global_step}" if total is None else f"{trainer.global_step}/{total}"
        print("  ".join([f"{self._stage} {steps}", *metrics, *times]), flush=True)


def total_steps(trainer: pl.Trainer) -> int | None:
    """Return the optimizer steps of the run, None where nothing bounds them."""
    bounds = []  # trainer.estimated_stepping_batches would make a resumed run forget its data loader's state
    if trainer.max_steps >= 0:
        bounds.append(trainer.max_steps)
    batches = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(batches):
        bounds.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    return min(bounds, default=None)


def shown_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """Return the newest value of each of :data:`SHOWN_METRICS`; a reward replaces the loss, which then says nothing."""
    logged = trainer.callback_metrics
    values = {name: logged.get(f"{key}_step", logged.get(key)) for name, key in SHOWN_METRICS.items()}
    shown = {name: float(value) for name, value in values.items() if value is not None}
    if "reward" in shown:
        shown.pop("loss", None)
    return shown


def time_limit_left(trainer: pl.Trainer) -> float | None:
    """Return the seconds that ``trainer.max_time`` still grants, None without such a limit."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    remaining = [timer.time_remaining() for timer in timers]
    return min((max(0.0, seconds) for seconds in remaining if seconds is not None), default=None)


def seconds_left(done: int, elapsed: float, step: int, total: int | None) -> float | None:
    """Return the seconds left at the mean pace so far.

    Args:
        done: Steps taken since this process started.
        elapsed: Seconds in which they were taken.
        step: The present step, which a resumed run does not count from 0.
        total: Steps of the whole run.

    >>> seconds_left(done=10, elapsed=5.0, step=60, total=100)
    20.0
    """
    if total is None or done <= 0:
        return None
    return elapsed / done * max(total - step, 0)
