"""Two processes of a run, and a port that no other program is given."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only as fabric_rank_zero_only
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import distributed

from helpers.forked import run_processes

TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")
"""What makes a trainer of several GPUs one of two processes on this machine; the precision may be given after it."""

SECONDS = 540
"""How long processes may take on a busy machine; pytest ends a test soon after."""


def run_two(task: Callable[..., None], *arguments: Any) -> None:
    """Run ``task(rank, *arguments)`` in two forked processes, both of which must end well."""
    assert run_processes([partial(task, rank, *arguments) for rank in (0, 1)], SECONDS) == [0, 0]


def become_rank(rank: int, port: int) -> None:
    """Make this process one of two that a launcher from outside, such as torchrun, has started; in forked children."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    rank_zero_only.rank = fabric_rank_zero_only.rank = rank  # read from the environment on import


def join_gloo(rank: int, folder: Path) -> None:
    """Make this process one of two that meet in ``folder``."""
    store = distributed.FileStore(str(folder / "meeting"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)


@contextmanager
def held_port() -> Iterator[int]:
    """Hold a port of 127.0.0.1: a server that reuses addresses may listen there, and no other program is given it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
