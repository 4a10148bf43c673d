"""A rollout's pass over its prompts, kept for the update of the same clips with the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from affectgpt_r1.types import ClipBatch, PrefixCache


def keep_prefill(prefill: Any, batch: ClipBatch, weights: Iterable[nn.Parameter]) -> PrefixCache:
    """Keep a pass over clips with trainable weights."""
    return PrefixCache(prefill, batch, fingerprints(weights))


def take_prefill(cache: PrefixCache, batch: ClipBatch, weights: Iterable[nn.Parameter]) -> Any | None:
    """Return the kept pass if one over these clips with these weights would be the same computation, else None.

    A pass with gradient empties the cache, used or not: a graph is differentiated once, and holds much memory.
    """
    if cache.prefill is None:
        return None
    prefill = cache.prefill
    serves = is_valid(cache, batch, weights)
    if torch.is_grad_enabled():
        cache.prefill = None
    return prefill if serves else None


def is_valid(cache: PrefixCache, batch: ClipBatch, weights: Iterable[nn.Parameter]) -> bool:
    """Return whether the clips and the trainable weights are those of the kept pass."""
    names = [field.name for field in dataclasses.fields(ClipBatch) if field.name != "unreadable"]
    same = all(_same(getattr(cache.batch, name), getattr(batch, name)) for name in names)
    return same and list(cache.weights) == fingerprints(weights)


def repeats_exactly(module: nn.Module) -> bool:
    """Return whether a module in training computes what it does in evaluation, and keeps what its backward pass reads.

    Dropout would be drawn in one and not in the other; gradient checkpointing would not keep activations.
    """
    return not any(
        (isinstance(part, nn.Dropout) and part.p > 0) or getattr(part, "gradient_checkpointing", False)
        for part in module.modules()
    )


def fingerprints(weights: Iterable[nn.Parameter]) -> Sequence[tuple[int, int, float]]:
    """Return address, version and first element of every weight."""
    weights = list(weights)
    if not weights:
        return []
    # The address changes where weights are exchanged (the reference policy), the version where they change in place.
    # A fused optimizer's step leaves the version as it is, but hardly every weight's first element.
    first = torch.stack([weight.detach()[(0,) * weight.dim()].float() for weight in weights]).tolist()
    return [(weight.data_ptr(), weight._version, value) for weight, value in zip(weights, first, strict=True)]


def _same(kept: Any, given: Any) -> bool:
    if isinstance(kept, Mapping):
        return kept.keys() == given.keys() and all(kept[name] is given[name] for name in kept)
    return kept is given if isinstance(kept, Tensor) else bool(kept == given)
