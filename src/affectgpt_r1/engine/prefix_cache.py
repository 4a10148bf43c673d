"""A rollout's pass over its prompts, kept for the update of the same clips with the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectgpt_r1.engine.language_model import Prefill
from affectgpt_r1.types import ClipBatch


class PrefixCache(NamedTuple):
    """A prefill in the autograd graph, and what it was computed from.

    Attributes:
        prefilled: The pass.
        batch: The clips.
        weights: Address, version and first element of every trainable weight.
    """

    prefilled: Prefill
    batch: ClipBatch
    weights: list[tuple[int, int, float]]

    @classmethod
    def of(cls, prefilled: Prefill, batch: ClipBatch, weights: Iterable[nn.Parameter]) -> PrefixCache:
        """Keep a pass over clips with trainable weights."""
        return cls(prefilled, batch, _states(weights))

    def serves(self, batch: ClipBatch, weights: Iterable[nn.Parameter]) -> bool:
        """Whether the pass over these clips with these weights would be the same computation."""
        names = [field.name for field in dataclasses.fields(ClipBatch) if field.name != "skipped"]
        same = all(_same(getattr(self.batch, name), getattr(batch, name)) for name in names)
        return same and self.weights == _states(weights)


def repeats_exactly(module: nn.Module) -> bool:
    """Whether a module in training computes what it does in evaluation, and keeps what its backward pass reads."""
    return not any(
        (isinstance(part, nn.Dropout) and part.p > 0) or getattr(part, "gradient_checkpointing", False)
        for part in module.modules()
    )


def _states(weights: Iterable[nn.Parameter]) -> list[tuple[int, int, float]]:
    """Other with other weights: the address where they are exchanged, the version where they change in place.

    A fused optimizer's step leaves the version as it is, but hardly every weight's first element.
    """
    weights = list(weights)
    if not weights:
        return []
    first = torch.stack([weight.detach()[(0,) * weight.dim()].float() for weight in weights]).tolist()
    return [(weight.data_ptr(), weight._version, one) for weight, one in zip(weights, first, strict=True)]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(first[name] is second[name] for name in first)
    return first is second if isinstance(first, Tensor) else bool(first == second)
