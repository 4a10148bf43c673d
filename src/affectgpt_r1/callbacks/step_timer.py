"""Wall time of training steps and of their phases, and peak memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from affectgpt_r1.training.log_values import pooled_over_ranks
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.types import LogValue

_STEP = "step_time"  # in checkpoints; logged as system/time/step
_SHOWN = "system/"  # MLflow has a tab for these, and what was learnt stands first on the other one


class PhaseTimer:
    """Sum the seconds of ``encoders``, ``prefill``, ``decode``, ``reward``, ``reference``, ``forward``, ``backward``...

    Args:
        enabled: Off, blocks are not timed, and an accelerator is never waited for.
        clock: Seconds.
    """

    def __init__(self, *, enabled: bool = True, clock: Callable[[], float] = time.perf_counter) -> None:
        self.enabled = enabled
        self.clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to a phase, also if the block raises."""
        started = self.now()
        try:
            yield
        finally:
            self.add(name, self.now() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add to a phase, unless the timer is off."""
        if self.enabled:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Return the seconds by phase since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken

    def now(self) -> float:
        """Return the clock's seconds."""
        # Kernels run behind the launching thread: without this wait a phase would be charged with another's work.
        if self.enabled and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        return self.clock()


def peak_memory_mib() -> float:
    """Return the peak memory in MiB: of the accelerator where one is used, else the process's resident set."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class StepTimer(pl.Callback):
    """Log ``system/time/step`` and ``/<phase>`` in seconds and ``system/peak_memory_mib`` of each optimizer step.

    A step's times are summed over its micro-batches; validation and checkpoints are not part of it.

    Args:
        phases: Time the phases, for which an accelerator is waited for at both ends of each. Off, the step's time and
            memory alone are logged, and nothing waits.
    """

    def __init__(self, phases: bool = True) -> None:
        self.timer = PhaseTimer(enabled=phases)
        self._batch_started = self._phase_started = 0.0
        self._seconds: dict[str, float] = {}  # of the micro-batches of the current step
        self._logged: dict[str, float] = {}  # 0 for each name that was logged before

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let policy and stage time their phases."""
        assert isinstance(pl_module, AffectModule)
        if self.timer.enabled:
            pl_module.policy.phase = pl_module.stage.phase = self.timer.phase

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self.timer.take()  # what validation has added is not part of a step
        self._batch_started = self.timer.now()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Start the backward pass."""
        self._phase_started = self.timer.now()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the backward pass."""
        self.timer.add("backward", self.timer.now() - self._phase_started)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Start the optimizer's step."""
        self._phase_started = self.timer.now()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the micro-batch; log a step that is complete."""
        assert isinstance(pl_module, AffectModule)
        ended, has_stepped = self.timer.now(), pl_module.accumulated.has_stepped
        if has_stepped:
            self.timer.add("optimizer", ended - self._phase_started)
        times = {f"time/{name}": seconds for name, seconds in self.timer.take().items()}
        for name, seconds in {_STEP: ended - self._batch_started, **times}.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if not has_stepped:
            return
        self._logged |= dict.fromkeys(self._seconds, 0.0)
        summed, self._seconds = {**self._logged, **self._seconds}, {}  # a phase that this step left out took no time
        summed["time/step"] = summed.pop(_STEP)
        logs = {f"{_SHOWN}{name}": LogValue("mean", seconds) for name, seconds in summed.items()}
        logs["system/peak_memory_mib"] = LogValue("max", peak_memory_mib())
        pl_module.log_train(pooled_over_ranks(logs, pl_module.device))

    def process_state(self) -> dict[str, Any]:
        """Return the seconds of a step that is cut between its micro-batches."""
        return {"seconds": dict(self._seconds)}

    def load_process_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`process_state`, or from where older versions had the seconds."""
        self._seconds = dict(state.get("seconds") or (state.get("accumulated") or {}).get("seconds", {}))
