"""Collectives over the ranks of a run; without a process group they change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor, distributed

Value = TypeVar("Value")


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return distributed.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Return this process's rank; 0 without a process group."""
    return distributed.get_rank() if _is_distributed() else 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum a tensor of the same shape over all ranks, without gradient."""
    total = value.detach().clone()
    if _is_distributed():
        distributed.all_reduce(total)
    return total


def all_gather(values: Tensor) -> Tensor:
    """Gather rows ``(N, ...)`` rank by rank, without gradient; ``N`` may differ between ranks."""
    values = values.detach()
    if not _is_distributed():
        return values
    counts = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(world_size())]
    distributed.all_gather(counts, torch.tensor([len(values)], device=values.device))
    lengths = [int(count) for count in counts]
    padded = values.new_zeros((max(lengths), *values.shape[1:]))
    padded[: len(values)] = values
    # all_gather takes tensors of one shape only, so rows are padded to the largest N.
    rows = [torch.empty_like(padded) for _ in range(world_size())]
    distributed.all_gather(rows, padded)
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])


def all_gather_objects(value: Value, group: distributed.ProcessGroup | None = None) -> list[Value]:
    """Gather a value that can be pickled, rank by rank; a group of None is the one that trains."""
    if not _is_distributed():
        return [value]
    value = _to_host(value)
    values: list[Value] = [value] * world_size()
    distributed.all_gather_object(values, value, group)
    return values


def gather_objects_to_rank_zero(value: Value) -> list[Value]:
    """Gather a value rank by rank on rank 0; the others get an empty list."""
    if not _is_distributed():
        return [value]
    value = _to_host(value)
    values = [value] * world_size() if rank() == 0 else []
    distributed.gather_object(value, values or None)
    return values


def split_across_ranks(folder: Path, work: Callable[[slice], Value]) -> list[Value]:
    """Let every rank do its slice of some work, wait for all, for hours if need be, and return results rank by rank.

    Ranks that see each other's files in ``folder`` do a slice each; a machine whose folder is its own does all.

    Raises:
        RuntimeError: Another rank has ended, which closes its connections.
    """
    if not _is_distributed():
        return [work(slice(None))]
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(group, distributed.ProcessGroup)  # of all processes, so of this one
    try:
        done = work(_own_slice(folder, group))
        return all_gather_objects(done, group)
    finally:
        distributed.destroy_process_group(group)


def _own_slice(folder: Path, group: distributed.ProcessGroup | None) -> slice:
    """Split the work among the ranks whose marks in the folder this rank sees."""
    run = all_gather_objects(uuid4().hex, group)[0]
    folder.mkdir(parents=True, exist_ok=True)
    marks = [folder / f".{run}-{number}" for number in range(world_size())]
    try:
        marks[rank()].touch()
        all_gather_objects(None, group)  # all have left theirs
        seen = [number for number, mark in enumerate(marks) if mark.exists()]
        all_gather_objects(None, group)  # all have looked
    finally:
        marks[rank()].unlink(missing_ok=True)
    return slice(seen.index(rank()), None, len(seen))


@contextmanager
def destroy_process_group_on_exit() -> Iterator[None]:
    """Destroy gloo's process group on every way out: its threads can keep the interpreter from ending.

    NCCL's is left to Lightning at exit, since destroying it waits for the other ranks.
    """
    try:
        yield
    finally:
        if _is_distributed() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()


def own_rows(gathered: Tensor, num_rows: int) -> Tensor:
    """Return this rank's rows of what :func:`all_gather` returned, for equally many rows per rank."""
    return gathered[rank() * num_rows : (rank() + 1) * num_rows]


def _to_host(value: Any) -> Any:
    """Return ``value`` with the tensors in its dicts, lists and tuples on the CPU."""
    # A pickled tensor of a GPU is unpickled on the sender's device, which the receiver may not see, or would fill.
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _to_host(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_to_host(item) for item in value)
    return value


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
