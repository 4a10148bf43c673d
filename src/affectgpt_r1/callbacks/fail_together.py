"""End all processes of a run when one of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from affectgpt_r1.tracking.mlflow_logger import RunStatus, mlflow_loggers

GRACE_SECONDS = 30.0  # in which processes that have closed their connections end
NOTICE_SECONDS = 1.0  # in which this process notices a signal that has ended another one

# Exit codes of a process that was asked to stop.
STOPPED = {code for number in (signal.SIGTERM, signal.SIGINT) for code in (-number, 128 + number)}


class FailTogether(pl.Callback):
    """End the processes that Lightning started on this machine as soon as one of them fails.

    A process that fails leaves the others waiting in a collective operation, which no signal interrupts. Lightning
    itself looks every five seconds and then kills the first process, whose MLflow run would stay RUNNING; and where the
    first process fails it leaves the others waiting. Here the run becomes FAILED, or KILLED after SIGTERM and Ctrl-C,
    and every process ends at once, with the exit code of the one that failed. torchrun and SLURM do this themselves.
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wait for each process in a thread; keep the handler of SIGTERM, which Lightning is about to replace."""
        self._on_sigterm = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
        self.watch(trainer)

    def watch(self, trainer: pl.Trainer) -> None:
        """Wait for each process in a thread; once is enough."""
        if self._threads:
            return
        for rank, process in enumerate(_started(trainer), start=1):
            thread = threading.Thread(target=self._wait, args=(trainer, rank, process), daemon=True)
            self._threads.append(thread)
            thread.start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the handler of SIGTERM."""
        # Lightning answers SIGTERM by a collective operation inside its handler, which hangs if another process is in
        # the middle of a step.
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the others."""
        # A lost connection: the thread that waits for the process which failed first ends this one, too.
        if isinstance(exception, RuntimeError):
            deadline = time.monotonic() + GRACE_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        self._ending.set()
        _kill(_started(trainer))

    def _wait(self, trainer: pl.Trainer, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if code == 0 or self._ending.wait(NOTICE_SECONDS):
            return
        self._ending.set()
        _kill(_started(trainer))
        status: RunStatus = "KILLED" if code in STOPPED else "FAILED"
        for tracked in mlflow_loggers(trainer.loggers):
            tracked.end(status)
        line = f"affectgpt-r1 train: process {rank} ended with code {code}; its messages are above"
        print(line, file=sys.stderr, flush=True)
        os._exit(code if code > 0 else 128 - code)


@contextmanager
def processes_started(trainer: pl.Trainer, *, wanted: bool = True) -> Iterator[None]:
    """Start a run's other processes and their group now instead of in ``fit``, to share the work that precedes it.

    Until ``fit`` watches over them, an error here ends them, and theirs ends this process.

    Args:
        trainer: Has a strategy of several processes, or nothing happens; and :class:`FailTogether` among its callbacks.
        wanted: Whether there is anything for them to do.
    """
    strategy: Any = trainer.strategy
    launcher = strategy.launcher
    is_launched = isinstance(launcher, _SubprocessScriptLauncher)
    if not wanted or not (is_launched or (launcher is None and isinstance(strategy, ParallelStrategy))):
        yield
        return
    together = next((item for item in trainer.callbacks if isinstance(item, FailTogether)), FailTogether())  # type: ignore[attr-defined]
    try:
        if is_launched:
            # launch() without Lightning's observer, which would kill this process before the thread can set its status.
            strategy.cluster_environment.validate_settings(launcher.num_processes, launcher.num_nodes)
            if not strategy.cluster_environment.creates_processes_externally:
                launcher._call_children_scripts()
            _set_num_threads_if_needed(launcher.num_processes)
        together.watch(trainer)
        strategy.setup_environment()
        yield
    except BaseException as error:
        together.on_exception(trainer, trainer.lightning_module, error)
        raise


def _started(trainer: pl.Trainer) -> list[subprocess.Popen[bytes]]:
    """Return the other processes of this machine, unless torchrun or SLURM has started them."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _kill(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
