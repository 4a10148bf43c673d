"""Sums and gathers over the processes of a run; without a process group they change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")


def num_processes() -> int:
    """Processes that train together; 1 without a process group."""
    return distributed.get_world_size() if _is_distributed() else 1


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of every process's tensor, without gradient.

    Args:
        value: Of one shape in every process.
    """
    total = value.detach().clone()
    if _is_distributed():
        distributed.all_reduce(total)
    return total


def all_gather(values: Tensor) -> Tensor:
    """Every process's rows, rank by rank, without gradient.

    Args:
        values: ``(N, ...)``; ``N`` may differ between processes.

    Returns:
        ``(sum of all N, ...)``.
    """
    values = values.detach()
    if not _is_distributed():
        return values
    world = num_processes()
    counts = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(world)]
    distributed.all_gather(counts, torch.tensor([len(values)], device=values.device))
    lengths = [int(count) for count in counts]
    padded = values.new_zeros((max(lengths), *values.shape[1:]))
    padded[: len(values)] = values
    rows = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(rows, padded)
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; zeros stand for one that is missing.

    Args:
        parameters: The same ones in the same order in every process.
    """
    works = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if _is_distributed():
            parameter.grad /= num_processes()
            works.append(distributed.all_reduce(parameter.grad, async_op=True))
    for work in works:
        work.wait()


def all_gather_objects(value: Value, group: distributed.ProcessGroup | None = None) -> list[Value]:
    """Every process's value, rank by rank; anything that can be pickled.

    Args:
        value: This process's.
        group: Of all processes; None is the one that trains.
    """
    if not _is_distributed():
        return [value]
    value = _to_host(value)
    values: list[Value] = [value] * num_processes()
    distributed.all_gather_object(values, value, group)
    return values


def gather_objects_to_rank_zero(value: Value) -> list[Value]:
    """Every process's value, rank by rank, in the first process; in the others an empty list."""
    if not _is_distributed():
        return [value]
    value = _to_host(value)
    values = [value] * num_processes() if distributed.get_rank() == 0 else []
    distributed.gather_object(value, values or None)
    return values


def split_across_ranks(folder: Path, work: Callable[[slice], Value]) -> list[Value]:
    """Let every process do its part of some work, and meet when all are done, after hours if need be.

    Args:
        folder: Where results are stored. Processes that see each other's files there do a part each; a machine whose
            folder no other one sees does the whole work among its own processes, and so holds all results.
        work: Does the items of a list that the slice takes.

    Returns:
        What ``work`` returned in every process, rank by rank.

    Raises:
        RuntimeError: Another process has ended; its connections then close, and nobody waits for it.
    """
    if not _is_distributed():
        return [work(slice(None))]
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(group, distributed.ProcessGroup)  # of all processes, so of this one
    try:
        done = work(_share_of(folder, group))
        return all_gather_objects(done, group)
    finally:
        distributed.destroy_process_group(group)


def _share_of(folder: Path, group: distributed.ProcessGroup | None) -> slice:
    """The part of this process: all processes leave a mark in the folder, and those that it sees share with it."""
    rank, run = distributed.get_rank(), all_gather_objects(uuid4().hex, group)[0]
    folder.mkdir(parents=True, exist_ok=True)
    marks = [folder / f".{run}-{number}" for number in range(num_processes())]
    try:
        marks[rank].touch()
        all_gather_objects(None, group)  # all have left theirs
        seen = [number for number, mark in enumerate(marks) if mark.exists()]
        all_gather_objects(None, group)  # all have looked
    finally:
        marks[rank].unlink(missing_ok=True)
    return slice(seen.index(rank), None, len(seen))


@contextmanager
def destroy_process_group_on_exit() -> Iterator[None]:
    """Leave the process group on every way out, as long as Python can still wait for gloo's threads.

    A group that stands when the interpreter ends can keep it from ending. NCCL's is left to Lightning, which closes it
    at exit: closing it waits for the other processes.
    """
    try:
        yield
    finally:
        if _is_distributed() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()


def own_rows(gathered: Tensor, num_rows: int) -> Tensor:
    """This process's rows of what :func:`all_gather` gave, for equally many rows a process."""
    rank = distributed.get_rank() if _is_distributed() else 0
    return gathered[rank * num_rows : (rank + 1) * num_rows]


def _to_host(value: Any) -> Any:
    """``value`` with the tensors in its dicts, lists and tuples on the CPU.

    A pickled tensor of an accelerator comes back on the device of the process that sent it, which the receiver may not
    see, and fills its memory where it does.
    """
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _to_host(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_to_host(one) for one in value)
    return value


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
