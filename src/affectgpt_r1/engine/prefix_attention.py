"""Attention over prompts that are shared by their completions.

A flat row holds ``B`` prompts and after them the ``N = B * G`` completions, without padding. Prompts attend causally to
themselves; a completion attends to its prompt and causally to itself. Every prompt token is computed once, forward and
backward. Both parts of a completion's softmax are merged by their log-normalisers; the backward pass gives the merged
ones to both parts' kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from affectgpt_r1.engine.packed_lengths import PackedLengths
from affectgpt_r1.engine.varlen_attention import attend_at_ends, attend_causally, attend_to_prompt
from affectgpt_r1.errors import ConfigError

NAME = "shared_prompt"


@dataclass
class SharedRow:
    """What a flat row holds, and the prompts' keys and values by layer.

    Attributes:
        prompts: Lengths of the ``B`` prompts.
        completions: Lengths of the ``N`` completions; None where the row holds prompts alone.
        prefilled: Whether the prompts' keys and values are in ``cache`` already and the row holds completions alone.
        keep: Whether a row of prompts alone puts its keys and values into ``cache``.
        cache: ``(k, v)`` by layer, each ``(prompt tokens, KV heads, d)``.
    """

    prompts: PackedLengths
    completions: PackedLengths | None
    prefilled: bool = False
    keep: bool = False
    cache: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @cached_property
    def read(self) -> Tensor | None:
        """Rows whose states are read after the last layer: each prompt's end, then completions. None: all."""
        if self.prefilled:
            return None
        ends = self.prompts.starts + self.prompts.counts - 1
        if self.completions is None:
            return ends
        own = torch.arange(self.completions.total, device=ends.device) + self.prompts.total
        return torch.cat([ends, own])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of the whole row.

        Args:
            layer: Index of the layer.
            query: ``(T, H, d)``, or ``(rows read, H, d)`` in the last layer.
            key: ``(T, KV heads, d)``.
            value: ``(T, KV heads, d)``.
            scale: Multiplies the scores.

        Returns:
            As ``query``.
        """
        if self.completions is None:
            if self.keep:
                self.cache[layer] = (key, value)
            return self._attend_in_prompts(query, key, value, scale)
        if self.prefilled:
            return attend_to_prompt(query, key, value, *self.cache[layer], self.prompts, self.completions, scale)
        (prompt_query, own_query), (prompt_key, own_key), (prompt_value, own_value) = (
            torch.split(one, [len(one) - self.completions.total, self.completions.total]) for one in (query, key, value)
        )
        return torch.cat(
            [
                self._attend_in_prompts(prompt_query, prompt_key, prompt_value, scale),
                attend_to_prompt(
                    own_query, own_key, own_value, prompt_key, prompt_value, self.prompts, self.completions, scale
                ),
            ]
        )

    def _attend_in_prompts(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if len(query) == self.prompts.count < self.prompts.total:
            return attend_at_ends(query, key, value, self.prompts, scale)
        return attend_causally(query, key, value, self.prompts, scale)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    row: Any,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of a transformers layer over a flat row.

    Args:
        module: The attention layer.
        query: ``(1, H, T, d)``.
        key: ``(1, KV heads, T, d)``.
        value: ``(1, KV heads, T, d)``.
        row: A :class:`SharedRow` or another object with its ``attend``.
        scaling: Multiplies the scores.
        dropout: Must be 0.
        sliding_window: Must be None.
        s_aux: Attention sinks; must be None.

    Returns:
        ``(1, T, H, d)``, and None for the weights.

    Raises:
        ConfigError: The model has attention dropout, a sliding window or sinks.
    """
    if sliding_window or s_aux is not None:
        which = f"a sliding window of {sliding_window} tokens" if sliding_window else "attention sinks"
        raise ConfigError(f"the language model has {which}, which no pass here computes; choose one without")
    if dropout:
        raise ConfigError(
            f"model.share_prefix cannot run attention dropout ({dropout}): set model.share_prefix=false, or "
            "model.language_model.attention_dropout=0"
        )
    # Under autocast the rotation has made float32 of query and key.
    flat = (one[0].transpose(0, 1).to(value.dtype) for one in (query, key, value))
    output: Tensor = row.attend(module.layer_idx, *flat, scaling)
    return output.unsqueeze(0), None
