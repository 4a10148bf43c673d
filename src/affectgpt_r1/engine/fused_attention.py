"""Attention over packed sequences by kernels for CUDA: FlashAttention's varlen functions, and FlexAttention.

No kernel takes a prompt that is held once and the causal part of its completions together. FlashAttention runs twice,
over the prompt's keys and over the completion's own, and the log-normalisers merge the two (see flash_attention).
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from affectgpt_r1.errors import ConfigError

log = logging.getLogger(__name__)

AttentionKernel: TypeAlias = Literal["auto", "flash", "flex", "plain"]
LARGEST_HEAD = 256  # of FlashAttention; its heads are multiples of 8


class Sequences(NamedTuple):
    """Bounds of packed sequences."""

    cu_seqlens: Tensor  # (n + 1,)
    max_seqlen: int


class SharedPrompts(NamedTuple):
    """Prompts whose keys and values are held once for ``G`` completions each."""

    key: Tensor  # (prompt tokens, KV heads, d)
    value: Tensor
    sequences: Sequences
    groups: Sequences  # of each prompt's completions, end to end


def check_attention(name: str) -> AttentionKernel:
    """Return the name of a kernel.

    Raises:
        ConfigError: It is unknown.
    """
    if name not in get_args(AttentionKernel):
        raise ConfigError(f"model.attention={name} is unknown: choose {', '.join(get_args(AttentionKernel))}")
    known: AttentionKernel = name  # type: ignore[assignment]
    return known


def chosen_attention(asked: AttentionKernel, query: Tensor) -> AttentionKernel:
    """Return the kernel for a query ``(T, H, d)``; ``flash`` on a CPU is torch's own for CPUs.

    Raises:
        ConfigError: FlashAttention was asked for, and does not take such a query.
    """
    return _chosen(asked, query.device.type, query.dtype, query.shape[-1])


@cache
def _chosen(asked: AttentionKernel, device: str, dtype: torch.dtype, size: int) -> AttentionKernel:
    fits = dtype in (torch.bfloat16, torch.float16) and size <= LARGEST_HEAD and size % 8 == 0
    if device == "cpu":
        chosen: AttentionKernel = "flash" if asked == "auto" else asked
    elif asked == "flash" and not fits:
        raise ConfigError(
            f"model.attention=flash takes bfloat16 or float16 and heads of 8 to {LARGEST_HEAD}, not {dtype} and heads "
            f"of {size}; choose auto"
        )
    elif asked == "auto":
        chosen = "flash" if fits and device == "cuda" else "plain"
    else:
        chosen = asked
    log.info("Attention on %s: %s (model.attention=%s)", device, chosen, asked)
    return chosen


def flash_attend(
    query: Tensor, key: Tensor, value: Tensor, own: Sequences, prompts: SharedPrompts | None, scale: float
) -> Tensor:
    """Attend causally inside sequences, and to their prompts if there are any; query and result are ``(T, H, d)``."""
    shared = (None, None) if prompts is None else (prompts.key, prompts.value)
    output: Tensor = _FlashAttention.apply(query, key, value, *shared, own, prompts, scale)
    return output


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prompt_key: Tensor | None,
        prompt_value: Tensor | None,
        own: Sequences,
        prompts: SharedPrompts | None,
        scale: float,
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        output, normalizer, *own_state = varlen_forward(query, key, value, own, own, causal=True, scale=scale)
        state: list[Tensor] = []
        if prompts is not None:
            assert prompt_key is not None
            assert prompt_value is not None
            prompt_key, prompt_value = prompt_key.contiguous(), prompt_value.contiguous()
            to_prompt, prompt_normalizer, *state = varlen_forward(
                query, prompt_key, prompt_value, prompts.groups, prompts.sequences, causal=False, scale=scale
            )
            merged = torch.logaddexp(normalizer, prompt_normalizer)  # (H, T)
            # In single precision, rounded once.
            output = output * (normalizer - merged).exp().T.unsqueeze(-1)
            output = output.addcmul_(to_prompt, (prompt_normalizer - merged).exp().T.unsqueeze(-1)).to(query.dtype)
            normalizer = merged
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, output, normalizer, *own_state, *state)
        ctx.own, ctx.prompts, ctx.scale = own, prompts, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prompt_key, prompt_value, output, normalizer, *states = ctx.saved_tensors
        own, prompts = ctx.own, ctx.prompts
        gradient = gradient.contiguous()
        # With the merged output and normaliser each call returns its part of the one softmax's gradient.
        of_query, of_key, of_value = varlen_backward(
            gradient, query, key, value, output, normalizer, own, own, states[:2], causal=True, scale=ctx.scale
        )
        of_prompt: tuple[Tensor | None, Tensor | None] = (None, None)
        if prompts is not None:
            to_query, *rest = varlen_backward(
                gradient,
                query,
                prompt_key,
                prompt_value,
                output,
                normalizer,
                prompts.groups,
                prompts.sequences,
                states[2:],
                causal=False,
                scale=ctx.scale,
            )
            of_query, of_prompt = of_query + to_query, (rest[0], rest[1])
        return of_query, of_key, of_value, *of_prompt, None, None, None


def varlen_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequences,
    keys: Sequences,
    *,
    causal: bool,
    scale: float,
    key_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output ``(T, H, d)``, log-normaliser ``(H, T)``, and what the backward pass wants of the dropout.

    ``key_lengths`` ``(n,)`` int32 tells how many of each sequence's keys are read; None means all.
    """
    output, normalizer, state, unused, _ = torch.ops.aten._flash_attention_forward(
        query, key, value, *_bounds(queries, keys), 0.0, causal, False, scale=scale, seqused_k=key_lengths
    )
    return output, normalizer, state, unused


def varlen_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normalizer: Tensor,
    queries: Sequences,
    keys: Sequences,
    state: list[Tensor],
    *,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        gradient, query, key, value, output, normalizer, *_bounds(queries, keys), 0.0, causal, *state, scale=scale
    )
    return gradients


def _bounds(queries: Sequences, keys: Sequences) -> tuple[Tensor, Tensor, int, int]:
    return queries.cu_seqlens.int(), keys.cu_seqlens.int(), queries.max_seqlen, keys.max_seqlen


def flex_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Tensor,
    prompts: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """:func:`flash_attend` by FlexAttention, in one softmax.

    Args:
        query: ``(T, H, d)``.
        key: ``(T, KV heads, d)``.
        value: ``(T, KV heads, d)``.
        sequences: ``(T,)`` the sequence of each token.
        prompts: Keys and values ``(prompt tokens, KV heads, d)``, their ``(prompt tokens,)`` prompts, and the ``(T,)``
            prompt of each query.
        scale: Multiplies the scores.

    Raises:
        ConfigError: Gradients are wanted on a CPU.
    """
    if query.device.type == "cpu" and query.requires_grad:
        if torch.is_grad_enabled():
            raise ConfigError("model.attention=flex has no gradients on a CPU; choose auto")
        query, key, value = query.detach(), key.detach(), value.detach()
    keys, values, before = key, value, 0
    no_prompt = sequences.new_full(sequences.shape, -1)
    prompt_of_key, prompt_of_query = no_prompt, no_prompt - 1
    if prompts is not None:
        before = len(prompts[0])
        keys, values = torch.cat([prompts[0], key]), torch.cat([prompts[1], value])
        prompt_of_key, prompt_of_query = torch.cat([prompts[2], no_prompt]), prompts[3]
    own_of_key = torch.cat([sequences.new_full((before,), -1), sequences])

    def sees(batch: Tensor, head: Tensor, place: Tensor, at: Tensor) -> Tensor:
        own = (own_of_key[at] == sequences[place]) & (at - before <= place)
        return own | (prompt_of_key[at] == prompt_of_query[place])

    device = query.device
    mask = create_block_mask(sees, None, None, len(query), len(keys), device=str(device))
    attend: Any = flex_attention if device.type == "cpu" else _compiled_flex()
    heads = (packed.transpose(0, 1).unsqueeze(0) for packed in (query, keys, values))
    output: Tensor = attend(*heads, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])
    return output[0].transpose(0, 1)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)
