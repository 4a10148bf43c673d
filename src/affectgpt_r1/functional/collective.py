"""Sums and gathers over the processes of a run; without a process group they change nothing."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed

Value = TypeVar("Value")


def num_processes() -> int:
    """Processes that train together; 1 without a process group."""
    return distributed.get_world_size() if _is_distributed() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of every process's tensor, without gradient.

    Args:
        value: Of one shape in every process.
    """
    total = value.detach().clone()
    if _is_distributed():
        distributed.all_reduce(total)
    return total


def gather_over_processes(values: Tensor) -> Tensor:
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


def gather_objects(value: Value) -> list[Value]:
    """Every process's value, rank by rank; anything that can be pickled."""
    if not _is_distributed():
        return [value]
    values: list[Value | None] = [None] * num_processes()
    distributed.all_gather_object(values, value)
    return [one for one in values if one is not None]


def own_rows(gathered: Tensor, num_rows: int) -> Tensor:
    """This process's rows of what :func:`gather_over_processes` gave, for equally many rows a process."""
    rank = distributed.get_rank() if _is_distributed() else 0
    return gathered[rank * num_rows : (rank + 1) * num_rows]


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
