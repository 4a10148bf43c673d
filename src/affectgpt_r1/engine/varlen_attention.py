"""Attention inside packed sequences, and of completions to their prompts, with its backward pass.

Sequences of unequal lengths are packed end to end without padding, as FlashAttention's varlen functions take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from affectgpt_r1.engine.flash_attention import attention_backward, attention_forward
from affectgpt_r1.engine.fused_attention import (
    AttentionKernel,
    Sequences,
    SharedPrompts,
    chosen_attention,
    flash_attend,
    flex_attend,
)
from affectgpt_r1.engine.precision import exact_matmul


class PackedLengths:
    """Lengths of ``n`` packed sequences; packs a right-padded batch and pads a packed one.

    Attributes:
        seqlens: ``(n,)`` lengths.
        cu_seqlens: ``(n + 1,)`` where each sequence begins, and the total.
        max_seqlen: The longest.
        positions: ``(total,)`` place of each token in its own sequence.
        sequences: ``(total,)`` sequence of each token.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.count, self.total, self.max_seqlen = len(self.lengths), sum(self.lengths), max(self.lengths)
        self.equal = self.total == self.count * self.max_seqlen
        self.seqlens = torch.tensor(self.lengths, device=device)
        steps = torch.arange(self.max_seqlen, device=device)
        self.kept = steps < self.seqlens.unsqueeze(-1)  # (n, max_seqlen)
        self.cu_seqlens = F.pad(self.seqlens.cumsum(0), (1, 0))
        self.positions = steps.expand(self.count, -1)[self.kept]
        self.sequences = torch.arange(self.count, device=device).repeat_interleave(self.seqlens)
        # Padding reads the tokens of the next sequence, whatever they are: no attention sees them, and they are finite.
        self._padded_index = (self.cu_seqlens[:-1, None] + steps).clamp(max=max(self.total - 1, 0)).flatten()
        self._packed_index = self.kept.flatten().nonzero().squeeze(-1)

    def bounds(self, per_sequence: int = 1) -> Sequences:
        """Return where every ``per_sequence`` sequences begin, and the most tokens of so many."""
        lengths = [sum(self.lengths[at : at + per_sequence]) for at in range(0, self.count, per_sequence)]
        return Sequences(self.cu_seqlens[::per_sequence], max(lengths))

    def pad(self, packed: Tensor) -> Tensor:
        """Return ``(total, ...)`` as ``(n, max_seqlen, ...)``; the padding is arbitrary but finite."""
        padded = packed if self.equal else packed.index_select(0, self._padded_index)
        return padded.view(self.count, self.max_seqlen, *packed.shape[1:])

    def pad_with_zeros(self, packed: Tensor) -> Tensor:
        """:meth:`pad` with zeros in the padding."""
        padded = self.pad(packed)
        if self.equal:
            return padded
        return padded.masked_fill_(~self.kept.view(*self.kept.shape, *[1] * (packed.dim() - 1)), 0.0)

    def pack(self, padded: Tensor) -> Tensor:
        """Return ``(n, max_seqlen, ...)`` as ``(total, ...)``."""
        packed = padded.reshape(self.count * self.max_seqlen, *padded.shape[2:])
        return packed if self.equal else packed.index_select(0, self._packed_index)

    def padding_bias(self, dtype: torch.dtype) -> Tensor | None:
        """Return ``(n, 1, 1, max_seqlen)`` to add to scores, the least number on padding; None without padding."""
        if self.equal:
            return None
        bias = torch.zeros(self.kept.shape, dtype=dtype, device=self.kept.device)
        # Not -inf: of a row that is masked everywhere the softmax would be NaN.
        return bias.masked_fill_(~self.kept, torch.finfo(dtype).min).view(self.count, 1, 1, self.max_seqlen)


def attend_causally(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: PackedLengths,
    scale: float,
    kernel: AttentionKernel = "auto",
) -> Tensor:
    """Attend causally inside each packed sequence.

    Args:
        query: ``(T, H, d)``.
        key: ``(T, KV heads, d)``.
        value: ``(T, KV heads, d)``.
        lengths: Of the sequences.
        scale: Multiplies the scores.
        kernel: See :func:`~affectgpt_r1.engine.fused_attention.chosen_attention`.

    Returns:
        ``(T, H, d)``.
    """
    chosen = chosen_attention(kernel, query)
    if chosen == "flex":
        return flex_attend(query, key, value, lengths.sequences, None, scale)
    if chosen == "flash" and query.device.type != "cpu":
        return flash_attend(query, key, value, lengths.bounds(), None, scale)
    output: Tensor = _CausalAttention.apply(query, key, value, lengths, scale, chosen == "plain")
    return output


def attend_last_tokens(query: Tensor, key: Tensor, value: Tensor, lengths: PackedLengths, scale: float) -> Tensor:
    """Attend from the last token of each of ``n`` sequences; query and result are ``(n, H, d)``."""
    # So few queries that autograd may keep their scores. Query heads of one key head are grouped: no key is repeated.
    count, heads, size = query.shape
    grouped = query.view(count, key.shape[1], -1, size)
    scores = exact_matmul(grouped, lengths.pad(key).permute(0, 2, 3, 1)) * scale
    bias = lengths.padding_bias(scores.dtype)
    weights = (scores if bias is None else scores + bias).softmax(-1).to(value.dtype)
    return (weights @ _heads_first(lengths.pad(value))).view(count, heads, size)


def attend_to_prefix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt_key: Tensor,
    prompt_value: Tensor,
    prompts: PackedLengths,
    completions: PackedLengths,
    scale: float,
    kernel: AttentionKernel = "auto",
) -> Tensor:
    """Attend from completions to their prompts, and causally to themselves.

    Args:
        query: ``(T, H, d)`` of the ``N = B * G`` completions.
        key: ``(T, KV heads, d)``.
        value: ``(T, KV heads, d)``.
        prompt_key: ``(prompt tokens, KV heads, d)``.
        prompt_value: ``(prompt tokens, KV heads, d)``.
        prompts: Lengths of the ``B`` prompts.
        completions: Lengths of the ``N`` completions.
        scale: Multiplies the scores.
        kernel: See :func:`~affectgpt_r1.engine.fused_attention.chosen_attention`.

    Returns:
        ``(T, H, d)``.
    """
    chosen = chosen_attention(kernel, query)
    per_prompt = completions.count // prompts.count
    if chosen == "flex":
        of_query = completions.sequences // per_prompt
        shared = (prompt_key, prompt_value, prompts.sequences, of_query)
        return flex_attend(query, key, value, completions.sequences, shared, scale)
    if chosen == "flash" and query.device.type != "cpu":
        held = SharedPrompts(prompt_key, prompt_value, prompts.bounds(), completions.bounds(per_prompt))
        return flash_attend(query, key, value, completions.bounds(), held, scale)
    output: Tensor = _CompletionAttention.apply(
        query, key, value, prompt_key, prompt_value, prompts, completions, scale, chosen == "plain"
    )
    return output


def _heads_first(padded: Tensor) -> Tensor:
    """Return ``(n, L, H, d)`` as ``(n, H, L, d)``, and back."""
    return padded.transpose(1, 2)


def _expand_heads(padded: Tensor, heads: int) -> Tensor:
    """Repeat each key head for its query heads: ``(n, L, KV heads, d)`` to ``(n, H, L, d)``."""
    repeats = heads // padded.shape[2]
    return _heads_first(padded if repeats == 1 else padded.repeat_interleave(repeats, 2))


def _reduce_heads(gradient: Tensor, key_heads: int) -> Tensor:
    """Sum gradients over the query heads of each key head: ``(n, H, L, d)`` to ``(n, L, KV heads, d)``."""
    rows, heads, length, size = gradient.shape
    if heads == key_heads:
        return _heads_first(gradient)
    return _heads_first(gradient.view(rows, key_heads, heads // key_heads, length, size).sum(2))


def _attend_to_self(
    query: Tensor, key: Tensor, value: Tensor, lengths: PackedLengths, scale: float, plain: bool
) -> tuple[Tensor, Tensor]:
    """Return output ``(n, H, L, d)`` and log-normaliser ``(n, H, L)``; ``query`` is padded, ``(n, L, H, d)``."""
    keys, values = (_expand_heads(lengths.pad(packed), query.shape[2]) for packed in (key, value))
    # The padding needs no mask: it is on the right, and causal attention sees what comes before.
    return attention_forward(_heads_first(query), keys, values, scale=scale, causal=True, bias=None, plain=plain)


def _gradients_to_self(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normalizer: Tensor,
    lengths: PackedLengths,
    scale: float,
    plain: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of :func:`_attend_to_self`: of the query padded, of key and value packed."""
    keys, values = (_expand_heads(lengths.pad(packed), query.shape[2]) for packed in (key, value))
    to_query, *rest = attention_backward(
        _heads_first(gradient),
        _heads_first(query),
        keys,
        values,
        output,
        normalizer,
        scale=scale,
        causal=True,
        bias=None,
        plain=plain,
    )
    to_key, to_value = (lengths.pack(_reduce_heads(padded, key.shape[1])) for padded in rest)
    return _heads_first(to_query), to_key, to_value


class _CausalAttention(torch.autograd.Function):
    """:func:`attend_causally`; it keeps packed tensors for the backward pass, not padded ones."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: PackedLengths, scale: float, plain: bool
    ) -> Tensor:
        output, normalizer = _attend_to_self(lengths.pad(query), key, value, lengths, scale, plain)
        ctx.save_for_backward(query, key, value, output, normalizer)
        ctx.lengths, ctx.scale, ctx.plain = lengths, scale, plain
        return lengths.pack(_heads_first(output))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, normalizer = ctx.saved_tensors
        lengths = ctx.lengths
        # Zeros: queries in the padding take part in the backward pass, and must not add to the keys' gradients.
        padded, padded_gradient = lengths.pad(query), lengths.pad_with_zeros(gradient)
        to_query, *others = _gradients_to_self(
            padded_gradient, padded, key, value, output, normalizer, lengths, ctx.scale, ctx.plain
        )
        return lengths.pack(to_query), *others, None, None, None


class _CompletionAttention(torch.autograd.Function):
    """:func:`attend_to_prefix`: the softmax over the prompt and that over the completion itself, merged."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prompt_key: Tensor,
        prompt_value: Tensor,
        prompts: PackedLengths,
        completions: PackedLengths,
        scale: float,
        plain: bool,
    ) -> Tensor:
        padded, key_heads = completions.pad(query), key.shape[1]
        # Towards the prompt a group's completions, and the query heads of one key head, are one long list of queries:
        # no mask separates them, so the prompt's keys and values are read once.
        bias = prompts.padding_bias(query.dtype)
        to_prompt, prompt_normalizer = attention_forward(
            _gather_groups(padded, prompts.count, key_heads),
            _heads_first(prompts.pad(prompt_key)),
            _heads_first(prompts.pad(prompt_value)),
            scale=scale,
            causal=False,
            bias=bias,
            plain=plain,
        )
        to_self, self_normalizer = _attend_to_self(padded, key, value, completions, scale, plain)
        to_prompt = _heads_first(_spread_groups(to_prompt, padded.shape))
        prompt_normalizer = _heads_first(_spread_groups(prompt_normalizer.unsqueeze(-1), padded.shape))[..., 0]
        # With log-normalisers L1 of the prompt's keys and L2 of the completion's own (see flash_attention):
        # L = logaddexp(L1, L2), o = exp(L1 - L) o1 + exp(L2 - L) o2.
        normalizer = torch.logaddexp(prompt_normalizer, self_normalizer)
        output = to_prompt * (prompt_normalizer - normalizer).exp().unsqueeze(-1).to(to_prompt.dtype)
        output = output.addcmul_(to_self, (self_normalizer - normalizer).exp().unsqueeze(-1).to(to_self.dtype))
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, output, normalizer, bias)
        ctx.prompts, ctx.completions, ctx.scale, ctx.plain = prompts, completions, scale, plain
        return completions.pack(_heads_first(output))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prompt_key, prompt_value, output, normalizer, bias = ctx.saved_tensors
        prompts, completions, key_heads = ctx.prompts, ctx.completions, key.shape[1]
        padded, padded_gradient = completions.pad(query), completions.pad_with_zeros(gradient)
        # Both parts get the merged output and normaliser: each then returns its part of the one softmax's gradient.
        to_prompt, *prompt_gradients = attention_backward(
            _gather_groups(padded_gradient, prompts.count, key_heads),
            _gather_groups(padded, prompts.count, key_heads),
            _heads_first(prompts.pad(prompt_key)),
            _heads_first(prompts.pad(prompt_value)),
            _gather_groups(_heads_first(output), prompts.count, key_heads),
            _gather_groups(_heads_first(normalizer.unsqueeze(-1)), prompts.count, key_heads)[..., 0],
            scale=ctx.scale,
            causal=False,
            bias=bias,
            plain=ctx.plain,
        )
        to_self, *own_gradients = _gradients_to_self(
            padded_gradient, padded, key, value, output, normalizer, completions, ctx.scale, ctx.plain
        )
        return (
            completions.pack(to_self + _spread_groups(to_prompt, padded.shape)),
            *own_gradients,
            *(prompts.pack(_heads_first(padded)) for padded in prompt_gradients),
            *[None] * 4,
        )


def _gather_groups(padded: Tensor, num_prompts: int, key_heads: int) -> Tensor:
    """Return ``(N, C, H, d)`` as ``(B, KV heads, H / KV heads * G * C, d)``: one list of queries per key head."""
    rows, length, heads, size = padded.shape
    shape = (num_prompts, rows // num_prompts * length, key_heads, heads // key_heads, size)
    return padded.reshape(shape).permute(0, 2, 3, 1, 4).reshape(num_prompts, key_heads, -1, size)


def _spread_groups(gathered: Tensor, shape: torch.Size) -> Tensor:
    """Undo :func:`_gather_groups`: back to ``(N, C, H, ...)``, ``shape`` being ``(N, C, H, d)``."""
    rows, length, heads, _ = shape
    num_prompts, key_heads, _, size = gathered.shape
    lists = gathered.view(num_prompts, key_heads, heads // key_heads, rows // num_prompts * length, size)
    return lists.permute(0, 3, 1, 2, 4).reshape(rows, length, heads, size)
