"""Rollouts with their rewards, and the buffer that several training steps visit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.rewards.weighting import RewardScores
from affectgpt_r1.training.log_values import log_state, logs_from_state
from affectgpt_r1.types import ClipBatch, Completion, CompletionRecord, LogValue, Rollout, TokenBatch, UnreadableClip


class ScoredRollout(NamedTuple):
    """``G`` completions for each of ``B`` clips, parsed and rewarded."""

    rollout: Rollout
    completions: list[Completion]  # B * G, clip by clip
    scores: RewardScores  # of B * G completions
    seconds: float  # that sampling took

    def replace_groups(self, groups: Sequence[int], drawn: ScoredRollout) -> ScoredRollout:
        """This rollout with some groups exchanged for newly drawn ones.

        Args:
            groups: ``b`` clip numbers.
            drawn: A rollout of these ``b`` clips.
        """
        num_generations = self.rollout.truncated.shape[1]
        rows = [group * num_generations + number for group in groups for number in range(num_generations)]
        completions = list(self.completions)
        for row, completion in zip(rows, drawn.completions, strict=True):
            completions[row] = dataclasses.replace(completion, group=row // num_generations)
        texts = list(self.rollout.texts)
        for group, new in zip(groups, drawn.rollout.texts, strict=True):
            texts[group] = new
        old, new_tokens = self.rollout.completions, drawn.rollout.completions
        return ScoredRollout(
            Rollout(
                TokenBatch(_with_rows(old.ids, groups, new_tokens.ids), _with_rows(old.mask, groups, new_tokens.mask)),
                _with_rows(self.rollout.per_token_logps, groups, drawn.rollout.per_token_logps),
                texts,
                _with_rows(self.rollout.truncated, groups, drawn.rollout.truncated),
                self.rollout.prefix_cache,  # the prompts are the same
            ),
            completions,
            RewardScores(
                _with_rows(self.scores.total, rows, drawn.scores.total),
                {name: _with_rows(part, rows, drawn.scores.parts[name]) for name, part in self.scores.parts.items()},
            ),
            self.seconds + drawn.seconds,
        )


@dataclass(frozen=True)
class RolloutBuffer:
    """What the training steps of one generation batch need, or of one step of it.

    Attributes:
        batch: ``B`` clips with encoder features.
        completions: ``(B, G, C)``.
        loss_mask: ``(B, G, C)``; 1 on tokens that the loss counts.
        sampling_per_token_logps: ``(B, G, C)`` under which the tokens were drawn.
        old_per_token_logps: ``(B, G, C)`` of the same weights, by the pass that the update makes; None where each step
            comes before the weights change.
        ref_per_token_logps: ``(B, G, C)`` of the reference; None without one.
        advantages: ``(B, G)``.
        tokens_per_step: Tokens of ``loss_mask`` over the steps, averaged over processes; 0 if the loss counts none.
        records: ``B * G`` rows of the completions table.
        logs: What is logged about the generation, at each step of it.
    """

    batch: ClipBatch
    completions: TokenBatch
    loss_mask: Tensor
    sampling_per_token_logps: Tensor
    ref_per_token_logps: Tensor | None
    advantages: Tensor
    tokens_per_step: float
    records: Sequence[CompletionRecord]
    logs: Mapping[str, LogValue] = field(default_factory=dict)
    old_per_token_logps: Tensor | None = None

    def step(self, index: int, num_steps: int) -> RolloutBuffer:
        """The part of one of ``num_steps`` training steps: whole groups, padding cut to the longest completion."""
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
            loss_mask=self.loss_mask[clips, :, :length],
            sampling_per_token_logps=self.sampling_per_token_logps[clips, :, :length],
            old_per_token_logps=part(self.old_per_token_logps),
            ref_per_token_logps=part(self.ref_per_token_logps),
            advantages=self.advantages[clips],
            records=self.records[clips.start * num_generations : clips.stop * num_generations],
        )

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only, so that a checkpoint loads with ``weights_only=True``."""
        state = {key.name: getattr(self, key.name) for key in dataclasses.fields(self)}
        batch = {key.name: getattr(self.batch, key.name) for key in dataclasses.fields(self.batch)}
        batch |= {"features": dict(self.batch.features), "cues": dict(self.batch.cues), "skipped": ()}
        records = [
            {key.name: getattr(record, key.name) for key in dataclasses.fields(record)} for record in self.records
        ]
        for record in records:
            record["rewards"] = dict(record["rewards"])
        return {
            **state,
            "batch": batch,
            "completions": tuple(self.completions),
            "records": records,
            "logs": log_state(self.logs),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> RolloutBuffer:
        """The buffer that :meth:`state` described, on ``device``."""
        moved = to_device(dict(state), device)
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
    """The batch of some of a batch's clips."""
    index = torch.tensor(list(clips), dtype=torch.long)

    def rows(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values[index.to(values.device)]
        if isinstance(values, Mapping):
            return {key: rows(value) for key, value in values.items()}
        return tuple(values[clip] for clip in clips) if values else values

    fields = {key.name: getattr(batch, key.name) for key in dataclasses.fields(batch) if key.name != "skipped"}
    return ClipBatch(**{name: rows(values) for name, values in fields.items()})


def without_long_prompts(policy: MultimodalPolicy, batch: ClipBatch) -> ClipBatch:
    """The batch without clips whose prompts have more tokens than the model has positions; its ``skipped`` says why."""
    reasons = policy.too_long(batch) if len(batch) else {}
    if not reasons:
        return batch
    skipped = tuple(UnreadableClip(batch.names[index], reason) for index, reason in reasons.items())
    kept = select_clips(batch, [index for index in range(len(batch)) if index not in reasons])
    return dataclasses.replace(kept, skipped=(*batch.skipped, *skipped))


def _with_rows(values: Tensor, rows: Sequence[int], new: Tensor) -> Tensor:
    """``values`` with rows replaced; token tensors are padded with zeros to the longer of the two."""
    if values.dim() > 2:
        length = max(values.shape[-1], new.shape[-1])
        values, new = (F.pad(one, (0, length - one.shape[-1])) for one in (values, new))
    return values.index_copy(0, torch.tensor(list(rows), device=values.device), new)


def to_device(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it moved; dicts, lists and tuples are walked."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(one, device) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(one, device) for one in value)
    return value
