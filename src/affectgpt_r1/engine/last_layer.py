"""The last layer over the tokens whose states are read.

A prompt's states after the last layer are read at its end alone, where they predict the first token of each completion.
Elsewhere in the prompt that layer owes its keys and values only: no queries, no attention, no feed-forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from affectgpt_r1.engine.fused_decoder import FAMILIES
from affectgpt_r1.engine.prefix_attention import PrefixAttention, packed_attention_forward


def trim_last_layer(model: Any) -> None:
    """Let the last layer compute the tokens that a :class:`PrefixAttention` reads; every other pass is unchanged.

    Args:
        model: A transformers causal language model with prefix attention.
    """
    layer = model.model.layers[-1]
    # Layers of other families may be put together otherwise: they compute all tokens.
    if type(layer).__name__ not in [f"{family}DecoderLayer" for family in FAMILIES]:
        return
    layer.forward = partial(_forward, layer)


def _forward(layer: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
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
    query = _heads(mixer.q_proj(normed[:, read]), mixer.head_dim)
    query = _rotate(query, cosine[:, read], sine[:, read])
    key = _rotate(_heads(mixer.k_proj(normed), mixer.head_dim), cosine, sine)
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
