"""Two processes that share this one's imports, and a port that no other program is given."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed

TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")
"""What makes a trainer of several GPUs one of two processes on this machine; the precision may be given after it."""

SECONDS = 540
"""How long processes may take on a busy machine; pytest ends a test soon after."""


def run_two(task: Callable[..., None], *arguments: Any) -> None:
    """``task(rank, *arguments)`` in two forked processes, both of which must end well."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run_rank, args=(task, rank, arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + SECONDS
    while True:
        codes = [process.exitcode for process in processes]
        left = deadline - time.monotonic()
        if any(codes) or None not in codes or left < 0:  # one that failed leaves the other waiting for it
            break
        wait([process.sentinel for process, code in zip(processes, codes, strict=True) if code is None], left)
    for process in processes:
        process.kill()
        process.join()
    assert codes == [0, 0]


def _run_rank(task: Callable[..., None], rank: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # a fork leaves the pool of threads behind
    task(rank, *arguments)


def join_gloo(rank: int, folder: Path) -> None:
    """Make this process one of two that meet in ``folder``."""
    store = distributed.FileStore(str(folder / "meeting"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)


@contextmanager
def held_port() -> Iterator[int]:
    """A port of 127.0.0.1: a server that reuses addresses may listen there, and no other program is given it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
