"""No process of a run outlives another that failed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence

import lightning.pytorch as pl

from affectgpt_r1.reporting.logger import mlflow_loggers

GRACE_SECONDS = 10.0
"""How long a process that has closed its connections may take to end."""


class FailTogether(pl.Callback):
    """Ends the processes that Lightning started on this machine as soon as one of them fails.

    A process that fails leaves the others waiting in a collective operation, which no signal interrupts. Lightning
    itself looks every five seconds and then kills the first process, whose MLflow run would stay RUNNING; and where the
    first process fails it leaves the others waiting. Here the run becomes FAILED and every process ends at once, with
    the exit code of the one that failed. A launcher from outside, such as torchrun or SLURM, does this itself.
    """

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wait for each process in a thread."""
        if self._started:
            return
        self._started = list(getattr(trainer.strategy.launcher, "procs", ()))
        for rank, process in enumerate(self._started, start=1):
            thread = threading.Thread(target=self._wait, args=(trainer, rank, process), daemon=True)
            self._threads.append(thread)
            thread.start()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the others; but a lost connection tells of one that failed first, whose thread ends this process, too."""
        if isinstance(exception, RuntimeError):
            for thread in self._threads:
                thread.join(GRACE_SECONDS)
        started, self._started = self._started, []
        _kill(started)

    def _wait(self, trainer: pl.Trainer, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if code == 0 or not self._started:
            return
        _kill(self._started)
        for tracked in mlflow_loggers(trainer.loggers):
            tracked.end("FAILED")
        print(f"error: process {rank} ended with code {code}; what it said stands above", file=sys.stderr, flush=True)
        os._exit(code if code > 0 else 1)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
