"""Dynamic sampling (DAPO, Yu et al. 2025): resample groups whose completions all earn the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from affectgpt_r1.rewards.weighting import RewardScores
from affectgpt_r1.training.random_state import derive_seed
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.types import ClipBatch, Completion, EmotionSet, Rollout, TokenBatch


class ScoredRollout(NamedTuple):
    """``G`` completions for each of ``B`` clips, parsed and rewarded."""

    rollout: Rollout
    completions: list[Completion]  # B * G, clip by clip
    targets: list[EmotionSet]  # B * G
    scores: RewardScores  # of B * G completions
    rewards_per_func: Tensor  # (B, G, R); NaN where one does not apply, or is left out of the baseline
    rewards: Tensor  # (B, G), their weighted sum
    is_zero_std: Tensor  # (B,) bool: no completion of the group has an advantage
    seconds: float  # that sampling took


def resample_zero_std_groups(
    scored: ScoredRollout,
    sample: Callable[[ClipBatch, int], ScoredRollout],
    batch: ClipBatch,
    seed: int,
    max_resamples: int,
) -> tuple[ScoredRollout, int]:
    """Replace zero-std groups by fresh samples, up to ``max_resamples`` times.

    Args:
        scored: Of ``batch``.
        sample: Draws and scores completions of clips, by a seed.
        batch: ``B`` clips.
        seed: Of ``scored``; each attempt derives its own.
        max_resamples: 0 keeps every group, as TRL does.

    Returns:
        The rollout, and how many groups were resampled, all attempts together.
    """
    num_resampled = 0
    for attempt in range(1, max_resamples + 1):
        groups = scored.is_zero_std.nonzero().flatten().tolist()
        if not groups:
            break
        num_resampled += len(groups)
        with torch.no_grad():
            scored = _replace_groups(scored, groups, sample(select_clips(batch, groups), derive_seed(seed, attempt)))
    return scored, num_resampled


def _replace_groups(scored: ScoredRollout, groups: Sequence[int], fresh: ScoredRollout) -> ScoredRollout:
    """Replace ``b`` groups, given by their clips' numbers, by a rollout of these clips."""
    num_generations = scored.rewards.shape[1]
    rows = [group * num_generations + number for group in groups for number in range(num_generations)]
    completions = list(scored.completions)
    for row, completion in zip(rows, fresh.completions, strict=True):
        completions[row] = dataclasses.replace(completion, group=row // num_generations)
    texts = list(scored.rollout.texts)
    for group, replacement in zip(groups, fresh.rollout.texts, strict=True):
        texts[group] = replacement
    tokens, fresh_tokens = scored.rollout.completions, fresh.rollout.completions
    return scored._replace(
        rollout=scored.rollout._replace(
            completions=TokenBatch(
                _with_rows(tokens.ids, groups, fresh_tokens.ids), _with_rows(tokens.mask, groups, fresh_tokens.mask)
            ),
            per_token_logps=_with_rows(scored.rollout.per_token_logps, groups, fresh.rollout.per_token_logps),
            texts=texts,
            truncated=_with_rows(scored.rollout.truncated, groups, fresh.rollout.truncated),
        ),
        completions=completions,
        scores=RewardScores(
            _with_rows(scored.scores.total, rows, fresh.scores.total),
            {
                name: _with_rows(part, rows, fresh.scores.rewards_per_func[name])
                for name, part in scored.scores.rewards_per_func.items()
            },
        ),
        rewards_per_func=_with_rows(scored.rewards_per_func, groups, fresh.rewards_per_func),
        rewards=_with_rows(scored.rewards, groups, fresh.rewards),
        is_zero_std=_with_rows(scored.is_zero_std, groups, fresh.is_zero_std),
        seconds=scored.seconds + fresh.seconds,
    )


def _with_rows(values: Tensor, rows: Sequence[int], fresh: Tensor) -> Tensor:
    """Replace rows; token tensors ``(B, G, C)`` are padded with zeros to the longer of the two."""
    if values.dim() > 2:
        length = max(values.shape[-1], fresh.shape[-1])
        values, fresh = (F.pad(tensor, (0, length - tensor.shape[-1])) for tensor in (values, fresh))
    return values.index_copy(0, torch.tensor(list(rows), device=values.device), fresh)
