"""Logits of a language model's head that are not rounded to half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from affectgpt_r1.engine.precision import exact_dtype, exact_matmul

COLUMNS = 8192  # rows of a weight in half precision that are cast at a time, where no kernel returns single precision


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
            rows = torch.split(head.weight, COLUMNS)
            logits = torch.cat([exact_matmul(states, chunk.T) for chunk in rows], -1)
            bias = getattr(head, "bias", None)
            return logits if bias is None else logits + bias
        # With adapters or a module of another kind: the head itself, called with its weights cast.
        weights = {name: param.to(exact_dtype(param.dtype)) for name, param in head.named_parameters()}
        exact = exact_dtype(states.dtype, *(param.dtype for param in weights.values()))
        adapted: Tensor = functional_call(head, weights, (states.to(exact),))
        return adapted
