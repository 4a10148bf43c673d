"""Walks over the logits ``states @ weight.T`` chunk by chunk, for :mod:`~affectgpt_r1.engine.fused_linear_logps`.

Exponentials are taken to base two: on a CPU ``exp2`` costs a third of ``exp``, and the change of base is free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.engine.precision import exact_dtype, exact_matmul

ROWS, COLUMNS, ACCELERATOR_COLUMNS = 2048, 512, 8192
KEPT_LOGITS = 2**24
LOG2_E = 1 / math.log(2)


class Sums(NamedTuple):
    """Sums over the vocabulary for ``m`` tokens."""

    shift: Tensor  # (m, 1) nats, taken off the logits
    mass: Tensor  # (m, 1) of exp(logit - shift)
    embedding: Tensor | None  # (m, D) of exp(logit - shift) * embedding
    entropy: Tensor | None  # (m, 1) nats


def row_slices(count: int, largest: int) -> list[slice]:
    """Blocks of nearly equal size, the first the largest, none above ``largest``."""
    size = math.ceil(count / max(1, math.ceil(count / largest)))
    return [slice(start, min(start + size, count)) for start in range(0, count, max(1, size))]


def kept_rows(weight: Tensor) -> int:
    """Tokens whose logits over the whole vocabulary may exist at once."""
    return max(1, KEPT_LOGITS // len(weight))


def scratch(weight: Tensor, rows: int, *, keep: bool) -> Tensor:
    """Room for one chunk of ``rows`` tokens, or for all their chunks."""
    size = rows * (len(weight) if keep else min(_width(weight), len(weight)))
    return weight.new_empty(size, dtype=exact_dtype(weight.dtype))


def shifted_chunks(
    states: Tensor, weight: Tensor, shift: Tensor, buffer: Tensor, *, keep: bool = False, scale: float = 1.0
) -> Iterator[tuple[slice, Tensor]]:
    """Yield columns of the vocabulary and ``(logits - shift) * log2(e)``, ``(m, columns)`` in single precision.

    The logits of a weight in half precision are not rounded to it: their sum would be off by 1 % and more.

    Args:
        states: ``(m, D)`` in the weight's type.
        weight: ``(V, D)``.
        shift: ``(m, 1)`` nats, in the weight's type but at least single precision.
        buffer: From :func:`scratch`.
        keep: Lay every chunk at a place of its own, else over the one before.
        scale: Multiplies the product of states and weight.
    """
    offset = -LOG2_E * shift
    for columns in _column_slices(weight):
        first = columns.start if keep else 0
        chunk = _chunk(buffer, len(states), slice(first, first + columns.stop - columns.start))
        if chunk.dtype == states.dtype == weight.dtype:
            torch.mm(states, weight[columns].T, out=chunk)
        else:
            chunk.copy_(exact_matmul(states, weight[columns].T))
        yield columns, torch.add(offset, chunk, alpha=LOG2_E * scale, out=chunk)


def exponential_sums(
    states: Tensor,
    weight: Tensor,
    chosen: Tensor,
    buffer: Tensor,
    *,
    keep: bool = False,
    embedding: bool = False,
    entropy: bool = False,
    scale: float = 1.0,
) -> Sums:
    """Sums of ``exp(logits - shift)`` over the vocabulary; kept chunks become ``exp(logits - shift)``.

    The logit of the chosen token serves as shift, which saves the search for the highest: at least ``exp(0)`` is then
    in the sum, so nothing underflows. Where a token is so improbable that the sum nears the type's end, the walk is
    made again with the highest logit.

    Args:
        states: See :func:`shifted_chunks`.
        weight: See :func:`shifted_chunks`.
        chosen: ``(m, 1)`` logits of the chosen tokens.
        buffer: See :func:`shifted_chunks`.
        keep: See :func:`shifted_chunks`.
        embedding: Whether to sum the embeddings.
        entropy: Whether to take the entropy.
        scale: See :func:`shifted_chunks`.
    """

    def sums(shift: Tensor) -> Sums:
        mass, moment = torch.zeros_like(shift), torch.zeros_like(shift)
        total = shift.new_zeros(states.shape) if embedding else None
        for columns, chunk in shifted_chunks(states, weight, shift, buffer, keep=keep, scale=scale):
            exponents = chunk.clone() if entropy else None
            mass.add_(chunk.exp2_().sum(-1, keepdim=True))
            if exponents is not None:
                moment.add_(exponents.mul_(chunk).sum(-1, keepdim=True))
            if total is not None:
                add_product(total, chunk, weight[columns])
        return Sums(shift, mass, total, mass.log() - moment / (LOG2_E * mass) if entropy else None)

    first = sums(chosen)
    if not (first.mass > math.sqrt(torch.finfo(weight.dtype).max)).any():
        return first
    highest = torch.full_like(chosen, -torch.inf)
    for _, chunk in shifted_chunks(states, weight, torch.zeros_like(chosen), buffer, scale=scale):
        torch.maximum(highest, chunk.amax(-1, keepdim=True), out=highest)
    return sums(highest / LOG2_E)


def kept_chunks(weight: Tensor, rows: int, buffer: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The chunks of ``rows`` tokens that a walk with ``keep`` left in the buffer."""
    return ((columns, _chunk(buffer, rows, columns)) for columns in _column_slices(weight))


def add_product(total: Tensor, first: Tensor, second: Tensor, *, alpha: float = 1.0) -> None:
    """``total += alpha * first @ second``, from factors in the type of ``second``, added in that of ``total``."""
    first = first.to(second.dtype)
    if total.dtype == second.dtype:
        total.addmm_(first, second, alpha=alpha)
    else:
        total.add_(exact_matmul(first, second), alpha=alpha)


def _chunk(buffer: Tensor, rows: int, columns: slice) -> Tensor:
    return buffer[rows * columns.start : rows * columns.stop].view(rows, -1)


def _column_slices(weight: Tensor) -> Iterator[slice]:
    count, width = len(weight), _width(weight)
    return (slice(start, min(start + width, count)) for start in range(0, count, width))


def _width(weight: Tensor) -> int:
    """A CPU wants chunks that stay in its cache, an accelerator few kernels."""
    return COLUMNS if weight.device.type == "cpu" else ACCELERATOR_COLUMNS
