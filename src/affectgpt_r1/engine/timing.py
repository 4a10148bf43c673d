"""Wall time of a training step's phases, and peak memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


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
