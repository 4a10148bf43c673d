"""Forward passes that replace those of Llama's, Qwen2's and Qwen3's layers; the weights and their names stay.

Norms and gated feed-forwards become single nodes of the autograd graph. Composed of elementary operations, each keeps
every intermediate for the backward pass; as one operation each keeps its inputs, and computes the rest again.

The last layer computes the tokens whose states are read. A prompt's states after it are read at the prompt's end alone,
where they predict the first token of each completion. Elsewhere in the prompt it owes its keys and values only: no
queries, no attention, no feed-forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from affectgpt_r1.engine.fused_decoder import FAMILIES, has_plain_adapters, is_lora_linear
from affectgpt_r1.engine.prefix_attention import PrefixAttention, packed_attention_forward


def fuse_layers(model: Any) -> None:
    """Replace the forward passes of a language model's norms and feed-forwards, but not their weights."""
    for module in model.modules():
        name = type(module).__name__
        if name in [f"{family}RMSNorm" for family in FAMILIES]:
            module.forward = partial(_norm, module)
        elif name in [f"{family}MLP" for family in FAMILIES] and type(module.act_fn).__name__ == "SiLUActivation":
            module.forward = partial(_feed_forward, module)
        elif is_lora_linear(module):
            module.forward = partial(_adapted, module)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype == module.weight.dtype == torch.float32:
        return rms_norm(hidden_states, module.weight, module.variance_epsilon)
    if hidden_states.device.type == "cuda" and hidden_states.dtype == module.weight.dtype:
        with torch.autocast("cuda", enabled=False):  # one kernel, which rounds once, as in decoding
            return F.rms_norm(hidden_states, module.weight.shape, module.weight, module.variance_epsilon)
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


def _adapted(module: Any, inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Return a linear layer's output with its adapters'; in half precision without PEFT's casts to single and back."""
    device = inputs.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
    output: Tensor
    if dtype.itemsize >= 4 or not has_plain_adapters(module):
        output = type(module).forward(module, inputs, *arguments, **options)
        return output
    output = module.base_layer(inputs, *arguments, **options)
    for name in module.active_adapters:
        if name in module.lora_A:
            down = F.linear(module.lora_dropout[name](inputs).to(dtype), module.lora_A[name].weight.to(dtype))
            up = module.lora_B[name].weight.to(dtype).t()
            # x W + (alpha / r) (x A) B, added up in single precision and rounded once.
            output = torch.addmm(output.flatten(0, -2), down.flatten(0, -2), up, alpha=module.scaling[name]).view_as(
                output
            )
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


def trim_last_layer(model: Any) -> None:
    """Let the last layer compute the tokens that a :class:`PrefixAttention` reads; every other pass is unchanged.

    Args:
        model: A transformers causal language model with prefix attention.
    """
    layer = model.model.layers[-1]
    # Layers of other families may be put together otherwise: they compute all tokens.
    if type(layer).__name__ not in [f"{family}DecoderLayer" for family in FAMILIES]:
        return
    layer.forward = partial(_last_layer, layer)


def _last_layer(layer: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
    attention = options.get("packed_attention")
    if isinstance(attention, PrefixAttention) and attention.read is not None:
        return _trimmed(layer, hidden_states, attention, attention.read, options["position_embeddings"])
    output: Tensor = type(layer).forward(layer, hidden_states, *arguments, **options)
    return output


def _trimmed(
    layer: Any, hidden_states: Tensor, attention: PrefixAttention, read: Tensor, rotation: tuple[Tensor, Tensor]
) -> Tensor:
    """Return ``(1, tokens read, D)`` of ``(1, T, D)``."""
    mixer = layer.self_attn
    normed, residual = layer.input_layernorm(hidden_states), hidden_states[:, read]
    cosine, sine = (angles[0].unsqueeze(0) for angles in rotation)
    # Queries of the tokens read, keys and values of all: what a later token attends to.
    query, key = _heads(mixer.q_proj(normed[:, read]), mixer.head_dim), _heads(mixer.k_proj(normed), mixer.head_dim)
    if hasattr(mixer, "q_norm"):  # Qwen3
        query, key = mixer.q_norm(query), mixer.k_norm(key)
    query, key = _rotate(query, cosine[:, read], sine[:, read]), _rotate(key, cosine, sine)
    value = _heads(mixer.v_proj(normed), mixer.head_dim)
    mixed, _ = packed_attention_forward(
        mixer,
        query,
        key,
        value,
        packed_attention=attention,
        scaling=mixer.scaling,
        dropout=mixer.attention_dropout if layer.training else 0.0,
        sliding_window=getattr(mixer, "sliding_window", None),
    )
    residual = residual + mixer.o_proj(mixed.flatten(2))
    output: Tensor = residual + layer.mlp(layer.post_attention_layernorm(residual))
    return output


def _heads(projected: Tensor, size: int) -> Tensor:
    """Return ``(1, T, H * d)`` as ``(1, H, T, d)``."""
    return projected.view(*projected.shape[:-1], -1, size).transpose(1, 2)


def _rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate by the positions (RoPE, Su et al. 2021, arXiv 2104.09864)."""
    # Llama's layout: coordinate i is paired with i + d / 2, so (a, b) becomes (a cos - b sin, b cos + a sin).
    first, second = vectors.chunk(2, -1)
    return vectors * cosine + torch.cat([-second, first], -1) * sine
