"""Draw tokens from hidden states while the logits of a chunk of the vocabulary are still in the CPU's cache."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectgpt_r1.engine.sampler import Drawn, draw_tokens, invert_cumulative
from affectgpt_r1.types import Sampling

CHUNK, PADDING = 512, 16


class _Buffers(NamedTuple):
    """What every step writes to. Kept: memory new to the process costs as much as a pass over it."""

    logits: Tensor  # (N, CHUNK)
    probabilities: Tensor  # (chunks, N, CHUNK)
    greatest: Tensor  # (chunks, N, 1) logit
    greatest_probability: Tensor  # (chunks, N, 1)
    banned: dict[int, Tensor]  # columns by chunk


class ChunkedLMHead:
    """A vocabulary projection without bias, copied into chunks once per rollout.

    Args:
        weight: ``(V, D)`` output embedding; it is not changed.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.size, width = weight.shape
        # Columns beyond the vocabulary never get probability; PADDING keeps rows from the same lines of the cache.
        self._chunks = weight.new_zeros(math.ceil(self.size / CHUNK), width, CHUNK + PADDING)[..., :CHUNK]
        for chunk, rows in zip(self._chunks, torch.split(weight, CHUNK), strict=True):
            chunk[:, : len(rows)].copy_(rows.t())
        self._buffers: _Buffers | None = None

    def logits(self, states: Tensor) -> Tensor:
        """Return logits ``(m, V)`` of states ``(m, D)``."""
        return states @ self.weight.T

    def draw(self, states: Tensor, sampling: Sampling, uniforms: Tensor | None, banned: Tensor) -> Drawn:
        """Draw as :func:`~affectgpt_r1.engine.sampler.draw_tokens`, from states.

        Args:
            states: ``(m, D)``; at most as many rows as in the first call.
            sampling: Temperature and filters.
            uniforms: ``(m,)`` float64 in [0, 1).
            banned: Tokens that are never drawn, the same ones in every call.
        """
        # The filters compare tokens across chunks, and greedy decoding needs no softmax: these take all logits.
        if sampling.temperature == 0 or sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0:
            return draw_tokens(self.logits(states), sampling, uniforms, banned)
        if uniforms is None:
            raise ValueError("drawing at a temperature above 0 needs random numbers")
        scaled = states / sampling.temperature
        buffers = self._buffers = self._buffers or self._make_buffers(states, banned)
        normalizers = self._normalize(scaled, buffers)  # (chunks, m)
        top = normalizers.amax(0)
        # softmax over V = (softmax over chunks of their logsumexp) * (softmax inside the chunk). One number serves both
        # draws by inversion: the first tells the chunk and where in the chunk's mass the number falls.
        masses = (normalizers - top).double().exp().T
        chunk, inside = invert_cumulative(masses, uniforms)
        members = buffers.probabilities[chunk, torch.arange(len(states))]
        place, _ = invert_cumulative(members.double(), inside)
        ids = chunk * CHUNK + place
        normalizer = top + masses.sum(-1).log().float()
        # Log-probs are those before bans, so the banned tokens' mass is added to the normaliser.
        if len(banned):
            normalizer = torch.logaddexp(normalizer, (scaled @ self.weight[banned].T).logsumexp(-1))
        return Drawn(ids, ((scaled * self.weight[ids]).sum(-1) - normalizer).clamp_(max=0.0))

    def _make_buffers(self, states: Tensor, banned: Tensor) -> _Buffers:
        chunks, count = len(self._chunks), len(states)
        return _Buffers(
            states.new_empty(count, CHUNK),
            states.new_empty(chunks, count, CHUNK),
            states.new_empty(chunks, count, 1),
            states.new_empty(chunks, count, 1),
            {number: banned[banned // CHUNK == number] % CHUNK for number in set((banned // CHUNK).tolist())},
        )

    def _normalize(self, states: Tensor, buffers: _Buffers) -> Tensor:
        """Write the softmax of each chunk to its buffer; return each chunk's logsumexp ``(chunks, m)``."""
        count, last = len(states), len(self._chunks) - 1
        logits, greatest = buffers.logits[:count], buffers.greatest[:, :count]
        probabilities, greatest_probability = buffers.probabilities[:, :count], buffers.greatest_probability[:, :count]
        least = torch.finfo(logits.dtype).min  # not -inf: of a chunk of banned tokens alone the softmax would be NaN
        for number, chunk in enumerate(self._chunks):
            torch.mm(states, chunk, out=logits)
            if number in buffers.banned:
                logits.index_fill_(-1, buffers.banned[number], least)
            if number == last:
                logits[:, self.size - number * CHUNK :] = least
            torch.amax(logits, -1, keepdim=True, out=greatest[number])
            torch.softmax(logits, -1, out=probabilities[number])
            torch.amax(probabilities[number], -1, keepdim=True, out=greatest_probability[number])
        # log p = s - logsumexp, at the greatest logit, where it is the most exact.
        return (greatest - greatest_probability.log()).squeeze(-1)


def chunked_lm_head(model: Any) -> ChunkedLMHead | None:
    """Return the head of a causal language model in chunks; None unless it is a plain linear layer on the CPU."""
    head = model.lm_head
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter or getattr(head, "bias", None) is not None:
        return None
    if head.weight.device.type != "cpu" or head.weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    return ChunkedLMHead(head.weight.detach())
