"""Token embeddings whose gradient joins that of the head that they are tied to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InputEmbedding:
    """The input embedding of a causal language model, for one pass forward and backward.

    The gradient of a lookup is a matrix as large as the embedding in which only a few rows are not zero. Where the head
    has the same weight, autograd would hold that matrix next to the head's and add the two. Here every lookup hands the
    weight on to the next use, at last to the head, and adds its rows to the gradient that comes back from there.

    Args:
        model: A transformers causal language model.

    Attributes:
        weight: ``(V, D)``, which the head must use in this pass; None where the weights are not tied or do not train,
            or a lookup does more than choose rows.
    """

    def __init__(self, model: Any) -> None:
        self._module = model.get_input_embeddings()
        self.weight: Tensor | None = self._module.weight if _can_chain_gradient(self._module, model.lm_head) else None

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``(..., D)`` of tokens ``(...)``."""
        # _LookUp returns the weight as a new node of the graph, so that the next use depends on this one.
        if self.weight is None or not torch.is_grad_enabled():
            rows: Tensor = self._module(ids)
        else:
            rows, self.weight = _LookUp.apply(self.weight, ids, self._module.padding_idx)
        return rows


def _can_chain_gradient(module: Any, head: Any) -> bool:
    if type(module) is not nn.Embedding or module.sparse or module.scale_grad_by_freq or module.max_norm is not None:
        return False
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None or head.weight is not module.weight:
        return False
    hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in (module, head))
    return type(module.weight) is nn.Parameter and module.weight.requires_grad and not hooked


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, ids)
        ctx.padding = padding
        ctx.set_materialize_grads(False)
        return weight[ids], weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor | None, of_weight: Tensor | None) -> tuple[Tensor | None, None, None]:
        weight, ids = ctx.saved_tensors
        if of_rows is not None:
            # In place: nothing else holds what comes back, which was made by the head, or by a later lookup.
            of_weight = torch.zeros_like(weight) if of_weight is None else of_weight
            ids, of_rows = ids.flatten(), of_rows.flatten(0, -2)
            if ctx.padding is not None:
                of_rows = of_rows.masked_fill((ids == ctx.padding).unsqueeze(-1), 0.0)
            of_weight.index_add_(0, ids, of_rows)
        return of_weight, None, None
