"""A rollout's pass over its prompts, kept for the update of the same clips with the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from affectgpt_r1.policy.language_model import Prefill
from affectgpt_r1.types import ClipBatch


class KeptPrefill(NamedTuple):
    """A prefill in the autograd graph, and what it was computed from.

    Attributes:
        batch: The clips.
        weights: Address and version of every trainable weight; both change where a weight does.
        prefilled: The pass.
    """

    batch: ClipBatch
    weights: list[tuple[int, int]]
    prefilled: Prefill

    def serves(self, batch: ClipBatch, weights: list[tuple[int, int]]) -> bool:
        """Whether the pass over these clips with these weights would be the same computation."""
        names = [field.name for field in dataclasses.fields(ClipBatch) if field.name != "skipped"]
        same = all(_same(getattr(self.batch, name), getattr(batch, name)) for name in names)
        return same and self.weights == weights


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(first[name] is second[name] for name in first)
    return first is second if isinstance(first, Tensor) else bool(first == second)
