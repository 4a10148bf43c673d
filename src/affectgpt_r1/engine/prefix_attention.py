"""Attention over packed prompts and their completions, so that a prompt is computed once for all of its completions.

``B`` prompts are packed first, the ``N = B * G`` completions after them, without padding. Prompts attend causally to
themselves; a completion attends to its prompt and causally to itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from affectgpt_r1.engine.fused_attention import AttentionKernel
from affectgpt_r1.engine.varlen_attention import PackedLengths, attend_causally, attend_last_tokens, attend_to_prefix
from affectgpt_r1.errors import ConfigError

NAME = "prefix"  # under which transformers finds the attention


@dataclass
class PrefixAttention:
    """The lengths of a packed pass, and the prompts' keys and values by layer.

    Attributes:
        prompts: Lengths of the ``B`` prompts.
        completions: Lengths of the ``N`` completions; None where the pass holds prompts alone.
        prefilled: Whether the prompts' keys and values are in ``cache`` and the pass holds completions alone.
        keep: Whether a pass of prompts alone puts its keys and values into ``cache``.
        cache: ``(k, v)`` by layer, each ``(prompt tokens, KV heads, d)``.
        kernel: What attends; see :func:`~affectgpt_r1.engine.fused_attention.chosen_attention`.
    """

    prompts: PackedLengths
    completions: PackedLengths | None
    prefilled: bool = False
    keep: bool = False
    cache: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    kernel: AttentionKernel = "auto"

    @cached_property
    def read(self) -> Tensor | None:
        """Tokens whose states are read after the last layer: each prompt's end, then completions. None: all."""
        if self.prefilled:
            return None
        ends = self.prompts.cu_seqlens[1:] - 1
        if self.completions is None:
            return ends
        own = torch.arange(self.completions.total, device=ends.device) + self.prompts.total
        return torch.cat([ends, own])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return the attention of all packed tokens, shaped as ``query``.

        Args:
            layer: Index of the layer.
            query: ``(T, H, d)``, or of the tokens in :attr:`read` alone, in the last layer.
            key: ``(T, KV heads, d)``.
            value: ``(T, KV heads, d)``.
            scale: Multiplies the scores.
        """
        if self.completions is None:
            if self.keep:
                self.cache[layer] = (key, value)
            return self._attend_in_prompts(query, key, value, scale)
        if self.prefilled:
            return attend_to_prefix(
                query, key, value, *self.cache[layer], self.prompts, self.completions, scale, self.kernel
            )
        own = self.completions.total
        (prompt_query, own_query), (prompt_key, own_key), (prompt_value, own_value) = (
            torch.split(heads, [len(heads) - own, own]) for heads in (query, key, value)
        )
        return torch.cat(
            [
                self._attend_in_prompts(prompt_query, prompt_key, prompt_value, scale),
                attend_to_prefix(
                    own_query,
                    own_key,
                    own_value,
                    prompt_key,
                    prompt_value,
                    self.prompts,
                    self.completions,
                    scale,
                    self.kernel,
                ),
            ]
        )

    def _attend_in_prompts(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        # One query per prompt: a trimmed last layer. (Of prompts of one token each, both ways are the same.)
        if len(query) == self.prompts.count < self.prompts.total:
            return attend_last_tokens(query, key, value, self.prompts, scale)
        return attend_causally(query, key, value, self.prompts, scale, self.kernel)


@dataclass
class CausalAttention:
    """Packed sequences of which each attends to itself alone.

    Attributes:
        lengths: Of the sequences.
        kernel: What attends; see :func:`~affectgpt_r1.engine.fused_attention.chosen_attention`.
    """

    lengths: PackedLengths
    kernel: AttentionKernel = "auto"

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See :meth:`PrefixAttention.attend`."""
        return attend_causally(query, key, value, self.lengths, scale, self.kernel)


def packed_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    packed_attention: Any,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend in a transformers layer by an object with an ``attend`` such as :class:`PrefixAttention`'s.

    Args:
        module: The attention layer.
        query: ``(1, H, T, d)``.
        key: ``(1, KV heads, T, d)``.
        value: ``(1, KV heads, T, d)``.
        packed_attention: Attends.
        scaling: Multiplies the scores.
        dropout: Must be 0.
        sliding_window: Must be None.
        s_aux: Attention sinks; must be None.

    Returns:
        ``(1, T, H, d)``, and None for the weights.
    """
    if sliding_window or s_aux is not None:
        which = f"a sliding window of {sliding_window} tokens" if sliding_window else "attention sinks"
        raise ConfigError(
            f"the language model has {which}, which prefix attention does not compute; choose a model without, or set "
            "model.engine=reference"
        )
    if dropout:
        raise ConfigError(
            f"model.share_prefix cannot run attention dropout ({dropout}): set model.share_prefix=false, or "
            "model.language_model.attention_dropout=0"
        )
    # Under autocast the rotation has made float32 of query and key.
    packed = (heads[0].transpose(0, 1).to(value.dtype) for heads in (query, key, value))
    output: Tensor = packed_attention.attend(module.layer_idx, *packed, scaling)
    return output.unsqueeze(0), None


def dispatch_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Attend by ``packed_attention`` where the model's forward pass was given one, else by torch's own attention."""
    if options.get("packed_attention") is not None:
        return packed_attention_forward(module, query, key, value, **options)
    output: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output


def use_prefix_attention(model: Any) -> None:
    """Let a transformers language model attend by :func:`dispatch_attention`."""
    AttentionInterface.register(NAME, dispatch_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.config._attn_implementation = NAME
