"""Prompts with a modality left out, to see and to train what an answer owes to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from affectgpt_r1.types import MODALITIES, ClipBatch, Modality


def without_modality(batch: ClipBatch, modality: Modality) -> ClipBatch:
    """Return the batch with ``modality`` left out of every prompt."""
    kept = tuple(tuple(kind for kind in kinds if kind != modality) for kinds in batch.modalities)
    return dataclasses.replace(batch, modalities=kept)


def maskable(batch: ClipBatch) -> list[Modality]:
    """Return the modalities that can be left out of some clip's prompt: it has another one."""
    return [kind for kind in MODALITIES if any(kind in kinds and len(kinds) > 1 for kinds in batch.modalities)]


def mask_one_each(batch: ClipBatch, seed: int) -> tuple[ClipBatch, Sequence[bool]]:
    """Leave one modality out of each prompt that has several, drawn by ``seed``; and say which prompts these are."""
    generator = torch.Generator().manual_seed(seed)
    masked = []
    for kinds in batch.modalities:
        left_out = int(torch.randint(len(kinds), (1,), generator=generator)) if len(kinds) > 1 else -1
        masked.append(tuple(kind for index, kind in enumerate(kinds) if index != left_out))
    changed = [len(kinds) > 1 for kinds in batch.modalities]
    return dataclasses.replace(batch, modalities=tuple(masked)), changed
