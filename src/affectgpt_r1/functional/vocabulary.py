"""Log-probabilities and entropies of tokens from hidden states, without ever holding all their logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS, COLUMNS = 2048, 1024


class VocabularyScores(NamedTuple):
    """Scores of ``M`` tokens."""

    logps: Tensor  # (M,) float32
    entropies: Tensor | None  # (M,) float32 nats; None unless asked for


def vocabulary_scores(
    states: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> VocabularyScores:
    """Log-probability of each token, and the entropy of its distribution, under ``softmax(states @ weight.T / T)``.

    The vocabulary is walked in tiles under a running maximum; the backward pass forms each tile's logits again. At most
    ``ROWS * COLUMNS`` logits exist at a time. A frozen weight costs no gradient of its own.

    Args:
        states: ``(M, D)`` hidden states that predict the tokens.
        weight: ``(V, D)`` output embedding.
        ids: ``(M,)`` int64 tokens.
        temperature: Divides the logits.
        entropy: Whether to return entropies; they carry gradient like the log-probabilities.

    Returns:
        The scores, both with gradient.
    """
    logps, entropies = _VocabularyScores.apply(states.to(weight.dtype) / temperature, weight, ids, entropy)
    return VocabularyScores(logps, entropies)


def _row_slices(count: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS))


def _column_slices(count: int) -> Iterator[slice]:
    return (slice(start, min(start + COLUMNS, count)) for start in range(0, count, COLUMNS))


def _normalize(states: Tensor, weight: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """Logsumexp ``(m,)`` of the logits and, if asked, the entropy ``(m,)``.

    With ``M`` the running maximum, ``s = sum exp(z - M)`` and ``t = sum exp(z - M) (z - M)``, the entropy is
    ``log s - t / s``: taking the maximum off keeps both sums small, hence exact.
    """
    top = states.new_full((len(states), 1), -torch.inf, dtype=torch.float32)
    mass, moment = torch.zeros_like(top), torch.zeros_like(top)
    for columns in _column_slices(len(weight)):
        logits = (states @ weight[columns].T).float()
        higher = torch.maximum(top, logits.amax(-1, keepdim=True))
        logits.sub_(higher)
        shrink = (top - higher).exp()
        weights = logits.exp()
        if entropy:
            shift = torch.where(mass > 0, top - higher, 0.0)
            moment = shrink * (moment + mass * shift) + logits.mul_(weights).sum(-1, keepdim=True)
        mass = shrink * mass + weights.sum(-1, keepdim=True)
        top = higher
    normalizer = (top + mass.log()).squeeze(-1)
    return normalizer, (mass.log() - moment / mass).squeeze(-1) if entropy else None


class _VocabularyScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, ids: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(states.device.type, enabled=False):
            parts = [_normalize(states[rows], weight, entropy) for rows in _row_slices(len(states))]
            chosen = (states.float() * weight[ids].float()).sum(-1)
        normalizer = torch.cat([part[0] for part in parts]) if parts else chosen
        entropies = torch.cat([part[1] for part in parts if part[1] is not None]) if parts and entropy else None
        if entropy and not parts:
            entropies = torch.zeros_like(chosen)
        ctx.save_for_backward(states, weight, ids, normalizer, entropies)
        ctx.set_materialize_grads(False)
        return chosen - normalizer, entropies

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, entropy_gradient: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        states, weight, ids, normalizer, entropies = ctx.saved_tensors
        gradient = torch.zeros_like(normalizer) if gradient is None else gradient.float()
        constant = -gradient if entropy_gradient is None else -(gradient + entropy_gradient * entropies)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        to_states = weight[ids] * gradient.unsqueeze(-1).to(weight.dtype)
        for rows in _row_slices(len(states)):
            for columns in _column_slices(len(weight)):
                tile = (states[rows] @ weight[columns].T).float().sub_(normalizer[rows].unsqueeze(-1))
                if entropy_gradient is None:
                    tile = tile.exp_().mul_(constant[rows].unsqueeze(-1))
                else:
                    factor = torch.addcmul(constant[rows].unsqueeze(-1), entropy_gradient[rows].unsqueeze(-1), -tile)
                    tile = tile.exp_().mul_(factor)
                tile = tile.to(weight.dtype)
                to_states[rows].addmm_(tile, weight[columns])
                if to_weight is not None:
                    to_weight[columns].addmm_(tile.T, states[rows])
        if to_weight is not None:
            to_weight.index_add_(0, ids, states * gradient.unsqueeze(-1).to(states.dtype))
        return to_states if ctx.needs_input_grad[0] else None, to_weight, None, None
