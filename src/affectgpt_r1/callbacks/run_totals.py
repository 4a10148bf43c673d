"""Wall time, peak memory and last metrics of a run, over all its parts where it was cut and resumed."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch

FIT = "fit_seconds"


class RunTotals(pl.Callback):
    """Measure wall time of a run's phases in seconds, and its peak memory in MiB, as if it had never been cut.

    Each checkpoint carries the totals up to it, and a resumed run adds to those: steps that are repeated after a kill
    count once. Of a resumed part's ``fit``, what precedes the first step does not count.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}
        self.resumed_at: list[int] = []  # optimizer steps
        self._seconds: dict[str, float] = {}
        self._running: dict[str, float] = {}  # phase to the time at which it began
        self._earlier_peak = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure one phase of this part."""
        self._running[name] = time.perf_counter()
        try:
            yield
        finally:
            self._seconds = self.exact_seconds()
            del self._running[name]

    def seconds(self) -> dict[str, float]:
        """Return seconds by phase, rounded to milliseconds."""
        return {name: round(seconds, 3) for name, seconds in self.exact_seconds().items()}

    def exact_seconds(self) -> dict[str, float]:
        """Return seconds by phase; of one that has not ended, until now."""
        now = time.perf_counter()
        running = {name: self._seconds.get(name, 0.0) + now - began for name, began in self._running.items()}
        return {**self._seconds, **running}

    def peak_memory_mib(self) -> float:
        """Return the largest resident set of the process in any part."""
        return max(self._earlier_peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the last logged metrics: a resumed run may end before it logs one again."""
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep where the run is resumed, also from a checkpoint without totals, and restore its metrics."""
        self._metrics = checkpoint.get("metrics", {})
        self._restore_metrics(trainer)
        stored = checkpoint.get("callbacks", {}).get(self.state_key, {})
        self.resumed_at = [*stored.get("resumed_at", ()), int(checkpoint["global_step"])]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the metrics again, which the Trainer forgets between loading a checkpoint and here."""
        self._restore_metrics(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count a resumed part."""
        self._skip_start_up()

    def state_dict(self) -> dict[str, Any]:
        """Return the totals until now."""
        return {
            "seconds": self.exact_seconds(),
            "peak_memory_mib": self.peak_memory_mib(),
            "resumed_at": list(self.resumed_at),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; phases of this part that have ended are added."""
        own = self._seconds
        self._seconds = dict(state_dict["seconds"])
        for name, seconds in own.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        self._earlier_peak = state_dict["peak_memory_mib"]
        self._skip_start_up()

    def _restore_metrics(self, trainer: pl.Trainer) -> None:
        if self._metrics:
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})

    def _skip_start_up(self) -> None:
        if self.resumed_at and FIT in self._running:
            self._running[FIT] = time.perf_counter()
