"""Products and logits that keep single precision where weights and activations are in half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

COLUMNS = 8192  # rows of a weight in half precision that are cast at a time, where no kernel returns single precision


def exact_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Return the type of sums over tensors of these types: at least single precision."""
    exact = torch.float32
    for dtype in dtypes:
        exact = torch.promote_types(exact, dtype)
    return exact


def exact_matmul(first: Tensor, second: Tensor) -> Tensor:
    """Return ``first @ second``, accumulated and returned in :func:`exact_dtype`, also under autocast.

    Args:
        first: ``(..., m, d)``.
        second: ``(..., d, n)``, of as many dimensions.
    """
    # A product that is returned in bfloat16 keeps 8 bits: of attention scores near 1,000 the last one is worth 4.
    device = first.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):  # it would cast the operands back
            return exact_matmul(first, second)
    if first.dtype == second.dtype and first.dtype.itemsize >= 4:
        return first @ second
    dtype = exact_dtype(first.dtype, second.dtype)
    if _returns_single_precision(first, second):
        if first.dim() == 2:
            return torch.mm(first, second, out_dtype=dtype)
        product = torch.bmm(first.flatten(0, -3), second.flatten(0, -3), out_dtype=dtype)
        return product.view(*first.shape[:-1], second.shape[-1])
    return first.to(dtype) @ second.to(dtype)


def _returns_single_precision(first: Tensor, second: Tensor) -> bool:
    """Return whether a kernel multiplies half and returns single precision: on CUDA, and without gradient."""
    if first.device.type != "cuda" or torch.version.cuda is None:
        return False
    differentiable = torch.is_grad_enabled() and (first.requires_grad or second.requires_grad)
    return first.dtype == second.dtype and first.dtype.itemsize == 2 and not differentiable


def head_logits(head: Any, states: Tensor) -> Tensor:
    """Return logits ``(m, V)`` in at least single precision, also under autocast and from weights in half precision.

    Args:
        head: A linear layer, with or without bias and adapters.
        states: ``(m, D)``.
    """
    # bfloat16 keeps logits of 20 to 1/8, and sampling and scoring would each round on their own.
    with torch.autocast(states.device.type, enabled=False):
        if type(head) is nn.Linear:
            states = states.to(head.weight.dtype)
            if head.weight.dtype.itemsize >= 4:
                logits: Tensor = head(states)
                return logits
            whole = _returns_single_precision(states, head.weight)
            rows = [head.weight] if whole else torch.split(head.weight, COLUMNS)
            logits = torch.cat([exact_matmul(states, chunk.T) for chunk in rows], -1)
            bias = getattr(head, "bias", None)
            return logits if bias is None else logits + bias
        # With adapters or a module of another kind: the head itself, called with its weights cast.
        weights = {name: param.to(exact_dtype(param.dtype)) for name, param in head.named_parameters()}
        exact = exact_dtype(states.dtype, *(param.dtype for param in weights.values()))
        adapted: Tensor = functional_call(head, weights, (states.to(exact),))
        return adapted
