"""The logits ``states @ weight.T`` in chunks of the vocabulary, for :mod:`~affectgpt_r1.engine.fused_linear_logps`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.engine import chunk_sizes
from affectgpt_r1.engine.precision import exact_dtype, exact_matmul

# Exponentials are taken to base two, exp(x) = 2^(x log2(e)): on a CPU exp2 costs a third of exp, and the change of base
# is part of a scaling that is done anyway.
LOG2_E = 1 / math.log(2)


class Sums(NamedTuple):
    """Sums over the vocabulary for ``m`` tokens."""

    shift: Tensor  # (m, 1) nats, subtracted from the logits
    mass: Tensor  # (m, 1) of exp(logit - shift)
    embedding: Tensor | None  # (m, D) of exp(logit - shift) * embedding
    entropy: Tensor | None  # (m, 1) nats


def row_slices(count: int, largest: int) -> list[slice]:
    """Return blocks of nearly equal size, the first the largest, none above ``largest``."""
    size = math.ceil(count / max(1, math.ceil(count / largest)))
    return [slice(start, min(start + size, count)) for start in range(0, count, max(1, size))]


def kept_rows(weight: Tensor) -> int:
    """Return for how many tokens all logits may exist at once."""
    return max(1, chunk_sizes.KEPT_LOGITS // len(weight))


def scratch(weight: Tensor, rows: int, *, keep: bool) -> Tensor:
    """Allocate one chunk of ``rows`` tokens, or all their chunks."""
    size = rows * (len(weight) if keep else min(_width(weight), len(weight)))
    return weight.new_empty(size, dtype=exact_dtype(weight.dtype))


def shifted_chunks(
    states: Tensor, weight: Tensor, shift: Tensor, buffer: Tensor, *, keep: bool = False, scale: float = 1.0
) -> Iterator[tuple[slice, Tensor]]:
    """Yield columns of the vocabulary and ``(logits - shift) * log2(e)``, ``(m, columns)`` in single precision.

    Args:
        states: ``(m, D)`` in the weight's type.
        weight: ``(V, D)``.
        shift: ``(m, 1)`` nats, in the weight's type but at least single precision.
        buffer: From :func:`scratch`.
        keep: Store every chunk at its own place in the buffer, else over the one before.
        scale: Multiplies the product of states and weight.
    """
    offset = -LOG2_E * shift
    for columns in _column_slices(weight):
        first = columns.start if keep else 0
        chunk = _chunk(buffer, len(states), slice(first, first + columns.stop - columns.start))
        if chunk.dtype == states.dtype == weight.dtype:
            torch.mm(states, weight[columns].T, out=chunk)
        else:  # half precision: logits that are rounded to it would make the sum wrong by 1 % and more
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
    """Sum ``exp(logits - shift)`` over the vocabulary; kept chunks become ``exp(logits - shift)``.

    ``chosen`` ``(m, 1)`` holds the chosen tokens' logits; the other arguments are those of :func:`shifted_chunks`.
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
        # H = log Z - sum_v p_v s_v for shifted logits s; moment holds sum_v s_v exp(s_v) in units of log 2.
        return Sums(shift, mass, total, mass.log() - moment / (LOG2_E * mass) if entropy else None)

    # Online softmax (Milakov & Gimelshein 2018, arXiv 1805.02867) without its running maximum: any shift gives the same
    # softmax. The chosen token's logit saves the search for the highest, and nothing underflows, since exp(0) is in the
    # sum. It would overflow where the token is very improbable: then the highest logit is searched for after all.
    first = sums(chosen)
    if not (first.mass > math.sqrt(torch.finfo(weight.dtype).max)).any():
        return first
    highest = torch.full_like(chosen, -torch.inf)
    for _, chunk in shifted_chunks(states, weight, torch.zeros_like(chosen), buffer, scale=scale):
        torch.maximum(highest, chunk.amax(-1, keepdim=True), out=highest)
    return sums(highest / LOG2_E)


def kept_chunks(weight: Tensor, rows: int, buffer: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Return the chunks of ``rows`` tokens that :func:`shifted_chunks` with ``keep`` has left in the buffer."""
    return ((columns, _chunk(buffer, rows, columns)) for columns in _column_slices(weight))


def add_product(total: Tensor, first: Tensor, second: Tensor, *, alpha: float = 1.0) -> None:
    """Add ``alpha * first @ second`` to ``total``: factors in the type of ``second``, the sum in that of ``total``."""
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
    # A CPU wants chunks that stay in its cache, an accelerator few kernels.
    return chunk_sizes.COLUMNS if weight.device.type == "cpu" else chunk_sizes.ACCELERATOR_COLUMNS
