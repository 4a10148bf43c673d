"""The last layer over the rows whose states are read.

A prompt's states after the last layer are read at its end alone, where they predict the first token of each completion.
Elsewhere in the prompt that layer owes its keys and values only: no queries, no attention, no feed-forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from affectgpt_r1.engine.fused_decoder import FAMILIES
from affectgpt_r1.engine.prefix_attention import SharedRow, attention


def trim_last_layer(model: Any) -> None:
    """Let the last layer compute the rows that a :class:`SharedRow` reads; every other pass stays as it is.

    So does a model of another family, whose layers may be put together otherwise.

    Args:
        model: A transformers causal language model with shared attention.
    """
    layer = model.model.layers[-1]
    if type(layer).__name__ not in [f"{family}DecoderLayer" for family in FAMILIES]:
        return
    layer.forward = partial(_forward, layer)


def _forward(layer: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
    row = options.get("row")
    if isinstance(row, SharedRow) and row.read is not None:
        return _trimmed(layer, hidden_states, row, options["position_embeddings"])
    output: Tensor = type(layer).forward(layer, hidden_states, *arguments, **options)
    return output


def _trimmed(layer: Any, hidden_states: Tensor, row: SharedRow, positions: tuple[Tensor, Tensor]) -> Tensor:
    """``(1, T, D)`` to ``(1, rows read, D)``."""
    mixer = layer.self_attn
    normed, residual = layer.input_layernorm(hidden_states), hidden_states[:, row.read]
    cosine, sine = (one[0].unsqueeze(0) for one in positions)
    query = _heads(mixer.q_proj(normed[:, row.read]), mixer.head_dim)
    query = _rotate(query, cosine[:, row.read], sine[:, row.read])
    key = _rotate(_heads(mixer.k_proj(normed), mixer.head_dim), cosine, sine)
    value = _heads(mixer.v_proj(normed), mixer.head_dim)
    mixed, _ = attention(
        mixer,
        query,
        key,
        value,
        row=row,
        scaling=mixer.scaling,
        dropout=mixer.attention_dropout if layer.training else 0.0,
        sliding_window=getattr(mixer, "sliding_window", None),
    )
    residual = residual + mixer.o_proj(mixed.flatten(2))
    output: Tensor = residual + layer.mlp(layer.post_attention_layernorm(residual))
    return output


def _heads(projected: Tensor, size: int) -> Tensor:
    """``(1, T, H * d)`` to ``(1, H, T, d)``."""
    return projected.view(*projected.shape[:-1], -1, size).transpose(1, 2)


def _rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) in the layout of Llama: the two halves of a head are the two coordinates."""
    first, second = vectors.chunk(2, -1)
    return vectors * cosine + torch.cat([-second, first], -1) * sine
