"""Wall time of a training step's phases, and peak memory.

The phases are ``encoders``, ``prefill``, ``decode``, ``reward``, ``reference``, ``old_logps``, ``forward``,
``backward``, ``optimizer``.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_seconds: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Add the time of a block to a phase of this process's current step."""
    started = now()
    try:
        yield
    finally:
        add_seconds(name, now() - started)


def add_seconds(name: str, seconds: float) -> None:
    """Add to a phase of this process's current step."""
    _seconds[name] = _seconds.get(name, 0.0) + seconds


def take_phases() -> dict[str, float]:
    """Seconds by phase since the last call; starts anew."""
    taken = dict(_seconds)
    _seconds.clear()
    return taken


def now() -> float:
    """Seconds of a steady clock, once the accelerator has done what it was given."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory_mib() -> float:
    """Peak memory in MiB: of the accelerator where one is used, else the process's resident set."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
