"""Collate clips to batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from affectgpt_r1.types import Clip, ClipBatch, UnreadableClip


def collate(items: Sequence[Clip | UnreadableClip]) -> ClipBatch:
    """Stack the clips that could be read, possibly none; list the others in ``unreadable``."""
    clips = [item for item in items if isinstance(item, Clip)]
    unreadable: list[UnreadableClip] = []
    for item in items:
        unreadable.extend(item.unreadable if isinstance(item, Clip) else [item])
    return ClipBatch(
        names=tuple(clip.name for clip in clips),
        subtitles=tuple(clip.subtitle for clip in clips),
        labels=tuple(clip.labels for clip in clips),
        reasons=tuple(clip.reason for clip in clips),
        modalities=tuple(clip.modalities for clip in clips),
        frames=_stack([clip.frames for clip in clips]),
        waveforms=_stack([clip.waveform for clip in clips]),
        features=_stack_by_key([clip.features or {} for clip in clips]),
        cues=_stack_by_key(
            [
                {cue: torch.tensor(value, dtype=torch.float32) for cue, value in (clip.cues or {}).items()}
                for clip in clips
            ]
        ),
        unreadable=tuple(unreadable),
        context_frames=_stack([clip.context_frames for clip in clips]),
        questions=tuple(clip.question for clip in clips),
        annotations=tuple(clip.annotations for clip in clips) if any(clip.annotations for clip in clips) else (),
    )


def batch_to_device(batch: ClipBatch, device: torch.device) -> ClipBatch:
    """Return the batch with its tensors on ``device``."""

    def move(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: move(inner) for key, inner in value.items()}
        return None if value is None else value.to(device, non_blocking=True)

    fields = ("frames", "context_frames", "waveforms", "features", "cues")
    supervised = None if batch.supervised is None else batch_to_device(batch.supervised, device)
    return dataclasses.replace(batch, supervised=supervised, **{name: move(getattr(batch, name)) for name in fields})


def _stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None


def _stack_by_key(maps: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([values[key] for values in maps]) for key in (maps[0] if maps else {})}
