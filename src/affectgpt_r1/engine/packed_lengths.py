"""Sequences of unequal lengths, laid end to end without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PackedLengths:
    """Lengths of ``n`` sequences in a flat row, and the ways between the row and a right-padded batch.

    Args:
        lengths: Tokens of each sequence.
        device: Where the row is.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.count, self.total, self.longest = len(self.lengths), sum(self.lengths), max(self.lengths)
        self.equal = self.total == self.count * self.longest
        self.counts = counts = torch.tensor(self.lengths, device=device)  # (n,)
        steps = torch.arange(self.longest, device=device)
        self.kept = steps < counts.unsqueeze(-1)  # (n, longest)
        self.starts = counts.cumsum(0) - counts  # (n,)
        self.positions = steps.expand(self.count, -1)[self.kept]  # (total,)
        self.sequences = torch.arange(self.count, device=device).repeat_interleave(counts)  # (total,)
        self._padded_index = (self.starts.unsqueeze(-1) + steps).clamp(max=max(self.total - 1, 0)).flatten()
        self._flat_index = self.kept.flatten().nonzero().squeeze(-1)

    def pad(self, row: Tensor) -> Tensor:
        """``(total, ...)`` to ``(n, longest, ...)``; what stands in the padding is arbitrary but finite."""
        padded = row if self.equal else row.index_select(0, self._padded_index)
        return padded.view(self.count, self.longest, *row.shape[1:])

    def pad_with_zeros(self, row: Tensor) -> Tensor:
        """:meth:`pad` with zeros in the padding."""
        padded = self.pad(row)
        if self.equal:
            return padded
        return padded.masked_fill_(~self.kept.view(*self.kept.shape, *[1] * (row.dim() - 1)), 0.0)

    def flatten(self, padded: Tensor) -> Tensor:
        """``(n, longest, ...)`` to ``(total, ...)``."""
        row = padded.reshape(self.count * self.longest, *padded.shape[2:])
        return row if self.equal else row.index_select(0, self._flat_index)

    def padding_bias(self, dtype: torch.dtype) -> Tensor | None:
        """``(n, 1, 1, longest)`` to add to scores: 0, or the least number on padding; None where lengths are equal."""
        if self.equal:
            return None
        bias = torch.zeros(self.kept.shape, dtype=dtype, device=self.kept.device)
        return bias.masked_fill_(~self.kept, torch.finfo(dtype).min).view(self.count, 1, 1, self.longest)
