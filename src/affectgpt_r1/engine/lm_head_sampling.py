"""Drawing tokens from hidden states while the logits of a chunk of the vocabulary are still in the cache."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectgpt_r1.engine.sampler import Drawn, draw_tokens, invert_cumulative
from affectgpt_r1.types import Sampling

CHUNK, PADDING = 512, 16


class _Buffers(NamedTuple):
    """What a step writes to, kept from step to step: memory new to the process costs as much as a pass over it."""

    logits: Tensor  # (N, CHUNK)
    probabilities: Tensor  # (chunks, N, CHUNK)
    greatest: Tensor  # (chunks, N, 1) logit
    greatest_probability: Tensor  # (chunks, N, 1)
    banned: dict[int, Tensor]  # columns by chunk


class ChunkedLMHead:
    """A vocabulary projection without bias, laid out in chunks once a rollout.

    A chunk's softmax is taken as soon as its logits stand; what joins the chunks is the logsumexp of each. A token is
    drawn first among chunks, then inside one, with one random number.

    Args:
        weight: ``(V, D)`` output embedding, left as it is.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.size, width = weight.shape
        # Columns beyond the vocabulary never get probability; the unused ones after them keep rows off one cache line.
        self._chunks = weight.new_zeros(math.ceil(self.size / CHUNK), width, CHUNK + PADDING)[..., :CHUNK]
        for chunk, rows in zip(self._chunks, torch.split(weight, CHUNK), strict=True):
            chunk[:, : len(rows)].copy_(rows.t())
        self._buffers: _Buffers | None = None

    def logits(self, states: Tensor) -> Tensor:
        """``(m, D)`` to ``(m, V)``."""
        return states @ self.weight.T

    def draw(self, states: Tensor, sampling: Sampling, uniforms: Tensor | None, banned: Tensor) -> Drawn:
        """:func:`~affectgpt_r1.engine.sampler.draw_tokens` from states; with a filter, or greedy, from whole logits.

        Args:
            states: ``(m, D)``; at most as many rows as in the first call.
            sampling: Temperature and filters.
            uniforms: ``(m,)`` float64 in [0, 1).
            banned: Tokens that are never drawn, the same ones in every call.

        Raises:
            ValueError: The temperature is above 0 and no random numbers were given.
        """
        if sampling.temperature == 0 or sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0:
            return draw_tokens(self.logits(states), sampling, uniforms, banned)
        if uniforms is None:
            raise ValueError("drawing at a temperature above 0 needs random numbers")
        scaled = states / sampling.temperature
        buffers = self._buffers = self._buffers or self._make_buffers(states, banned)
        normalizers = self._normalize(scaled, buffers)  # (chunks, m)
        top = normalizers.amax(0)
        masses = (normalizers - top).double().exp().T
        chunk, inside = invert_cumulative(masses, uniforms)
        members = buffers.probabilities[chunk, torch.arange(len(states))]
        place, _ = invert_cumulative(members.double(), inside)
        ids = chunk * CHUNK + place
        normalizer = top + masses.sum(-1).log().float()
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
        """Softmax of each chunk into its buffer, and each chunk's logsumexp ``(chunks, m)``.

        The greatest logit less the logarithm of its own probability is the logsumexp.
        """
        count, last = len(states), len(self._chunks) - 1
        logits, greatest = buffers.logits[:count], buffers.greatest[:, :count]
        probabilities, greatest_probability = buffers.probabilities[:, :count], buffers.greatest_probability[:, :count]
        least = torch.finfo(logits.dtype).min  # not -inf: a chunk may hold banned tokens alone
        for number, chunk in enumerate(self._chunks):
            torch.mm(states, chunk, out=logits)
            if number in buffers.banned:
                logits.index_fill_(-1, buffers.banned[number], least)
            if number == last:
                logits[:, self.size - number * CHUNK :] = least
            torch.amax(logits, -1, keepdim=True, out=greatest[number])
            torch.softmax(logits, -1, out=probabilities[number])
            torch.amax(probabilities[number], -1, keepdim=True, out=greatest_probability[number])
        return (greatest - greatest_probability.log()).squeeze(-1)


def chunked_lm_head(model: Any) -> ChunkedLMHead | None:
    """The head of a causal language model in chunks; None where it is not a plain linear layer on the CPU."""
    head = model.lm_head
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter or getattr(head, "bias", None) is not None:
        return None
    if head.weight.device.type != "cpu" or head.weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    return ChunkedLMHead(head.weight.detach())
