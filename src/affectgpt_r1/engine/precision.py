"""Products and sums that keep single precision where weights and activations are in half precision."""

from __future__ import annotations

import torch
from torch import Tensor

FIXED_POINT = 2**35  # steps between 0 and the largest of the numbers that are added as integers


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


def cumulative_sum(values: Tensor) -> Tensor:
    """Return ``values.cumsum(-1)`` of numbers that are not negative, also where accelerators must be deterministic."""
    # torch has no deterministic cumulative sum of floating-point numbers on CUDA: under trainer.deterministic=true it
    # raises. There the numbers are added as integers, exactly, in whatever order.
    if values.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
        return values.cumsum(-1)
    return integer_cumulative_sum(values)


def integer_cumulative_sum(values: Tensor) -> Tensor:
    """Return the cumulative sum in double precision, over multiples of ``max / FIXED_POINT``."""
    # Sums of up to 2^17 numbers fit the 53 bits of a double; they never fall, and do not grow where a number is 0.
    largest = values.double().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    counts = (values.double() / largest * FIXED_POINT).round().long()
    return counts.cumsum(-1).double() * (largest / FIXED_POINT)
