"""Drawing tokens, and the decoding loop over an expanded prompt cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.functional.logprobs import selective_log_softmax
from affectgpt_r1.types import Sampling


class Decoded(NamedTuple):
    """``N`` decoded completions."""

    ids: Tensor  # (N, C) int64
    mask: Tensor  # (N, C) float32
    per_token_logps: Tensor  # (N, C) float32
    truncated: Tensor  # (N,) bool


def filter_logits(logits: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Keep the ``top_k`` most likely tokens, then the smallest set whose probability reaches ``top_p``.

    Args:
        logits: ``(N, V)``.
        top_k: 0 keeps all.
        top_p: 1 keeps all; the most likely token always stays.

    Returns:
        ``(N, V)`` with ``-inf`` at the tokens left out.
    """
    if top_k > 0:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def draw_tokens(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """Draw one token a row; the most likely one at temperature 0.

    Args:
        logits: ``(N, V)`` before the temperature.
        sampling: Temperature and filters.
        generator: Source of randomness.

    Returns:
        ``(N,)`` int64.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    kept = filter_logits(logits / sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
    return torch.multinomial(kept.softmax(-1), 1, generator=generator).squeeze(-1)


def decode(
    first_logits: Tensor,
    advance: Callable[[Tensor, Tensor], Tensor],
    *,
    sampling: Sampling,
    stop_ids: Sequence[int],
    banned_ids: Sequence[int],
    pad_id: int,
    generator: torch.Generator | None = None,
) -> Decoded:
    """Decode until every row has drawn a stop token or the limit is reached.

    Args:
        first_logits: ``(N, V)`` after the prompt.
        advance: Takes ``(N,)`` drawn tokens and the ``(N, c)`` mask so far; returns the next ``(N, V)`` logits.
        sampling: How tokens are drawn.
        stop_ids: Tokens that end a completion.
        banned_ids: Media placeholders, which would break the next forward pass if they were drawn; those beyond the
            vocabulary (an embedding table that was not resized) cannot be.
        pad_id: Stands after the stop token.
        generator: Source of randomness.

    Returns:
        The completions. Log-probs are those of the full distribution at the sampling temperature (1 if greedy),
        before filters and bans, as the update pass computes them.
    """
    temperature = sampling.temperature or 1.0
    stops = torch.tensor(list(stop_ids), device=first_logits.device)
    banned = torch.tensor(
        [token for token in banned_ids if token < first_logits.shape[-1]], dtype=torch.long, device=first_logits.device
    )
    running = torch.ones(first_logits.shape[0], dtype=torch.bool, device=first_logits.device)
    ids, masks, logps, logits = [], [], [], first_logits
    for _ in range(sampling.max_completion_length):
        allowed = logits.index_fill(-1, banned, -torch.inf)
        drawn = draw_tokens(allowed, sampling, generator).where(
            running, torch.full_like(running, pad_id, dtype=torch.long)
        )
        logps.append(selective_log_softmax(logits / temperature, drawn) * running)
        ids.append(drawn)
        masks.append(running.float())
        running = running & ~torch.isin(drawn, stops)
        if not running.any():
            break
        if len(ids) < sampling.max_completion_length:
            logits = advance(drawn, torch.stack(masks, 1))
    return Decoded(torch.stack(ids, 1), torch.stack(masks, 1), torch.stack(logps, 1), running)
