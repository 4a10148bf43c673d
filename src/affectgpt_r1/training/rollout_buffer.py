"""The rollout buffer that several training steps visit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training.log_values import log_state, logs_from_state
from affectgpt_r1.types import ClipBatch, CompletionRecord, LogValue, PrefixCache, TokenBatch, UnreadableClip


@dataclass(frozen=True)
class RolloutBuffer:
    """What the training steps of one generation batch need, or one step of it."""

    batch: ClipBatch  # B clips with encoder features
    completions: TokenBatch  # (B, G, C)
    completion_mask: Tensor  # (B, G, C); 1 on tokens that the loss counts
    sampling_per_token_logps: Tensor  # (B, G, C) under which the tokens were drawn
    ref_per_token_logps: Tensor | None  # (B, G, C) of the reference; None without one
    advantages: Tensor  # (B, G)
    tokens_per_step: float  # of completion_mask over the steps, averaged over processes; 0 if the loss counts none
    records: Sequence[CompletionRecord]  # B * G rows of the completions table
    logs: Mapping[str, LogValue] = field(default_factory=dict)  # of the generation, logged at each step of it
    # (B, G, C) of the weights that sampled, by the pass that the update makes. None where each step comes before the
    # weights change.
    old_per_token_logps: Tensor | None = None
    # What generation computed of the prompts and the update may reuse; checkpoints leave it out.
    prefix_cache: PrefixCache | None = None

    def step(self, index: int, num_steps: int) -> RolloutBuffer:
        """Return the part of one of ``num_steps`` training steps: full groups, cut to the longest completion."""
        if num_steps == 1:
            return self
        size = len(self.batch) // num_steps
        clips = slice(index * size, (index + 1) * size)
        length = int(self.completions.mask[clips].sum(-1).max())
        num_generations = self.advantages.shape[1]

        def part(logps: Tensor | None) -> Tensor | None:
            return None if logps is None else logps[clips, :, :length]

        return dataclasses.replace(
            self,
            batch=select_clips(self.batch, range(clips.start, clips.stop)),
            completions=TokenBatch(self.completions.ids[clips, :, :length], self.completions.mask[clips, :, :length]),
            completion_mask=self.completion_mask[clips, :, :length],
            sampling_per_token_logps=self.sampling_per_token_logps[clips, :, :length],
            old_per_token_logps=part(self.old_per_token_logps),
            ref_per_token_logps=part(self.ref_per_token_logps),
            advantages=self.advantages[clips],
            records=self.records[clips.start * num_generations : clips.stop * num_generations],
        )

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that a checkpoint loads with ``weights_only=True``."""
        state = {key.name: getattr(self, key.name) for key in dataclasses.fields(self)}
        batch = {key.name: getattr(self.batch, key.name) for key in dataclasses.fields(self.batch)}
        batch |= {"features": dict(self.batch.features), "cues": dict(self.batch.cues), "unreadable": ()}
        records = [
            {key.name: getattr(record, key.name) for key in dataclasses.fields(record)} for record in self.records
        ]
        for record in records:
            record["rewards"] = dict(record["rewards"])
        del state["prefix_cache"]
        return {
            **state,
            "batch": batch,
            "completions": tuple(self.completions),
            "records": records,
            "logs": log_state(self.logs),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> RolloutBuffer:
        """Return the buffer that :meth:`state` described, on ``device``."""
        moved = to_device(dict(state), device)
        if "loss_mask" in moved:  # in checkpoints of older versions
            moved["completion_mask"] = moved.pop("loss_mask")
            moved["batch"].pop("skipped")
        return cls(
            **{
                **moved,
                "batch": ClipBatch(**moved["batch"]),
                "completions": TokenBatch(*moved["completions"]),
                "records": [CompletionRecord(**record) for record in moved["records"]],
                "logs": logs_from_state(moved["logs"]),
            }
        )


def select_clips(batch: ClipBatch, clips: Sequence[int]) -> ClipBatch:
    """Return the batch of some of a batch's clips."""
    index = torch.tensor(list(clips), dtype=torch.long)

    def rows(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values[index.to(values.device)]
        if isinstance(values, Mapping):
            return {key: rows(value) for key, value in values.items()}
        return tuple(values[clip] for clip in clips) if values else values

    fields = {key.name: getattr(batch, key.name) for key in dataclasses.fields(batch) if key.name != "unreadable"}
    return ClipBatch(**{name: rows(values) for name, values in fields.items()})


def without_long_prompts(policy: MultimodalPolicy, batch: ClipBatch) -> ClipBatch:
    """Return the batch without clips whose prompts have more tokens than the model has positions, and say why."""
    reasons = policy.too_long(batch) if len(batch) else {}
    if not reasons:
        return batch
    unreadable = tuple(UnreadableClip(batch.names[index], reason) for index, reason in reasons.items())
    kept = select_clips(batch, [index for index in range(len(batch)) if index not in reasons])
    return dataclasses.replace(kept, unreadable=(*batch.unreadable, *unreadable))


def to_device(value: Any, device: torch.device) -> Any:
    """Return ``value`` with every tensor in its dicts, lists and tuples moved."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value
