"""Attention of one new token of each completion to its prompt's keys, held once per prompt, and to its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from affectgpt_r1.engine.packed_lengths import PackedLengths
from affectgpt_r1.engine.precision import exact_matmul


class KVCache:
    """Keys and values of the prompts, and of the completions so far.

    Args:
        prompts: Lengths of the ``B`` prompts.
        cache: The prompts' ``(k, v)`` by layer, each ``(prompt tokens, KV heads, d)``.
        num_generations: ``G``.
        max_length: Most tokens of a completion.
    """

    def __init__(
        self, prompts: PackedLengths, cache: Mapping[int, tuple[Tensor, Tensor]], num_generations: int, max_length: int
    ) -> None:
        self.count = prompts.count * num_generations
        self.num_prompts, self.max_length = prompts.count, max_length
        self.length = 0  # tokens of the completions so far
        self._rows: Tensor | None = None
        # Laid out as the products read them: keys as (d, P) columns, values as (P, d) rows.
        self._bias = prompts.padding_bias(torch.float32)
        self._prompt_keys = {
            layer: prompts.pad(key.detach()).permute(0, 2, 3, 1).contiguous() for layer, (key, _) in cache.items()
        }  # (B, KV heads, d, P)
        self._prompt_values = {
            layer: prompts.pad(value.detach()).transpose(1, 2).contiguous() for layer, (_, value) in cache.items()
        }  # (B, KV heads, P, d)
        self._own: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, rows: Tensor) -> None:
        """Announce that the next pass feeds the completions ``rows`` ``(m,)`` of the ``N``."""
        self._rows = None if len(rows) == self.count else rows

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Add the newest keys and values ``(m, KV heads, d)``; return the attention to all so far, ``(m, H, d)``."""
        own_keys, own_values = self._append(layer, key, value)
        heads, key_heads, size = query.shape[1], key.shape[1], key.shape[2]
        repeats, per_prompt = heads // key_heads, self.count // self.num_prompts
        # In half precision the scores are scaled, not the query: that would be rounded once more.
        is_half = query.dtype.itemsize < 4
        product: Callable[[Tensor, Tensor], Tensor] = exact_matmul if is_half else torch.matmul
        every = query if is_half else query * scale
        # Every completion takes part, those that have ended with a query of 0, so that shapes stay: nothing reads them.
        if self._rows is not None:
            every = query.new_zeros(self.count, heads, size).index_copy_(0, self._rows, every)
        # To the prompt a group's completions, and the query heads of one key head, are one list of G * repeats queries:
        # the prompt's keys are read once for the group.
        grouped = every.view(self.num_prompts, per_prompt, key_heads, repeats, size).transpose(1, 2)
        to_prompt = product(grouped.reshape(self.num_prompts, key_heads, -1, size), self._prompt_keys[layer])
        to_self = product(every.view(self.count, key_heads, repeats, size), own_keys.transpose(-1, -2))
        if is_half:
            to_prompt, to_self = to_prompt * scale, to_self * scale
        if self._bias is not None:
            to_prompt = to_prompt + self._bias.to(to_prompt.dtype)
        shape = (self.num_prompts, key_heads, per_prompt, repeats, -1)
        spread = to_self.view(self.num_prompts, per_prompt, key_heads, repeats, -1).transpose(1, 2)
        # One softmax over the prompt's keys and the completion's own.
        weights = torch.cat([to_prompt.view(shape), spread], -1).softmax(-1).to(value.dtype)
        prompt_weights, self_weights = torch.split(weights, [to_prompt.shape[-1], self.length + 1], -1)
        from_prompt = prompt_weights.flatten(2, 3) @ self._prompt_values[layer]
        from_self = self_weights.transpose(1, 2).reshape(self.count, key_heads, repeats, -1) @ own_values
        output = from_prompt.view(*shape[:4], size).transpose(1, 2).reshape(from_self.shape) + from_self
        output = output.reshape(
            self.count, heads, size
        )  # not view: of one prompt the sum has the strides of heads first
        return output if self._rows is None else output.index_select(0, self._rows)

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest keys and values; return the completions' own so far, ``(N, KV heads, length + 1, d)``."""
        if layer not in self._own:
            shape = (self.count, key.shape[1], self.max_length, key.shape[2])
            self._own[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        keys, values = self._own[layer]
        for buffer, new in ((keys, key), (values, value)):
            if self._rows is None:
                buffer[:, :, self.length] = new
            else:
                buffer[self._rows, :, self.length] = new
        return keys[:, :, : self.length + 1], values[:, :, : self.length + 1]
