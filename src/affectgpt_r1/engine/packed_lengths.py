"""Sequences of unequal lengths, packed end to end without padding, as FlashAttention's varlen functions take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


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
