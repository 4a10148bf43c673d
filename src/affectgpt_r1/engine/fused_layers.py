"""Norms and gated feed-forwards of Llama's and Qwen2's layers as single nodes of the autograd graph.

Composed of elementary operations, each keeps every intermediate for the backward pass. As one operation each keeps its
inputs, and computes the rest again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from affectgpt_r1.engine.fused_decoder import FAMILIES


def fuse_layers(model: Any) -> None:
    """Replace the forward passes of a language model's norms and feed-forwards, but not their weights."""
    for module in model.modules():
        name = type(module).__name__
        if name in [f"{family}RMSNorm" for family in FAMILIES]:
            module.forward = partial(_norm, module)
        elif name in [f"{family}MLP" for family in FAMILIES] and type(module.act_fn).__name__ == "SiLUActivation":
            module.forward = partial(_feed_forward, module)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype == module.weight.dtype == torch.float32:
        return rms_norm(hidden_states, module.weight, module.variance_epsilon)
    # In half precision the model's own code rounds where the model was trained to be rounded.
    output: Tensor = type(module).forward(module, hidden_states)
    return output


def _feed_forward(module: Any, hidden_states: Tensor) -> Tensor:
    gate, up, down = module.gate_proj(hidden_states), module.up_proj(hidden_states), module.down_proj
    # Adapters, a bias or autocast do more than the product with the weight: then the layer itself is called.
    plain = type(down) is nn.Linear and getattr(down, "bias", None) is None
    if plain and gate.dtype == down.weight.dtype and not torch.is_autocast_enabled(gate.device.type):
        return gated_projection(gate, up, down.weight)
    output: Tensor = down(gated_silu(gate, up))
    return output


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Normalise ``states`` ``(..., D)``; ``weight`` is ``(D,)``."""
    output: Tensor = _RootMeanSquareNorm.apply(states, weight, epsilon)
    return output


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` of tensors of one shape."""
    output: Tensor = _GatedSiLU.apply(gate, up)
    return output


def gated_projection(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    """Return ``(silu(gate) * up) @ weight.T`` of ``gate`` and ``up`` ``(..., I)`` and ``weight`` ``(D, I)``."""
    output: Tensor = _GatedProjection.apply(gate, up, weight)
    return output


class _RootMeanSquareNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): y = w * x / r with r = sqrt(mean(x^2) + epsilon).
        squares = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
        inverse = squares.div_(states.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, inverse, weight)
        output: Tensor = (states * inverse).mul_(weight)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states, inverse, weight = ctx.saved_tensors
        normed = states * inverse
        to_weight = (gradient * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        # With n = x / r and h = w * dy: dx = (h - n * mean(h * n)) / r.
        weighted = gradient * weight
        mean = torch.linalg.vecdot(weighted, normed).unsqueeze(-1).div_(states.shape[-1])
        return weighted.addcmul_(normed, mean, value=-1).mul_(inverse), to_weight, None


class _GatedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        # d gate = silu'(gate) * up * dy; d up = silu(gate) * dy.
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


class _GatedProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        # The product silu(gate) * up is not kept: of all activations of a layer it is among the largest.
        ctx.save_for_backward(gate, up, weight)
        return F.linear(F.silu(gate).mul_(up), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        gate, up, weight = ctx.saved_tensors
        activated, to_weight = F.silu(gate), None
        if ctx.needs_input_grad[2]:
            to_weight = gradient.flatten(0, -2).T @ (activated * up).flatten(0, -2)
        to_product = gradient @ weight
        # As above, with dy = to_product, in place: activations of this size are what memory is spent on.
        to_up = activated.mul_(to_product)
        to_gate = to_product.mul_(up)
        torch.ops.aten.silu_backward.grad_input(to_gate, gate, grad_input=to_gate)
        return to_gate, to_up, to_weight
