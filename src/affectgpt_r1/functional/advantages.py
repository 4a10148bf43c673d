"""Group-relative advantages (Shao et al. 2024, GRPO)."""

from __future__ import annotations

import torch
from torch import Tensor

STD_EPSILON = 1e-4
"""Added to the group's standard deviation, as TRL and R1-Omni do."""

ZERO_VARIANCE_TOLERANCE = 1e-6
"""Rewards of a group that differ by float noise only give no gradient; an exact ``std > 0`` would miss them."""


def group_advantages(rewards: Tensor, *, scale: bool = True) -> Tensor:
    """``(r - mean_g) / (std_g + 1e-4)`` with the unbiased standard deviation of each clip's group.

    Args:
        rewards: ``(B, G)``; a row that holds NaN (no reward applied) gets advantage 0 there.
        scale: Divide by the group's standard deviation.

    Returns:
        ``(B, G)``; each row sums to 0 over its finite entries.
    """
    known = ~rewards.isnan()
    count = known.sum(1, keepdim=True).clamp(min=1)
    mean = rewards.nan_to_num().sum(1, keepdim=True) / count
    centred = torch.where(known, rewards - mean, torch.zeros_like(rewards))
    if not scale:
        return centred
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance.sqrt() + STD_EPSILON)


def zero_variance_groups(rewards: Tensor) -> Tensor:
    """Groups whose completions all earn the same, and hence teach nothing.

    Args:
        rewards: ``(B, G)``.

    Returns:
        ``(B,)`` bool.
    """
    high = rewards.nan_to_num(nan=-torch.inf).amax(1)
    low = rewards.nan_to_num(nan=torch.inf).amin(1)
    return (high - low) <= ZERO_VARIANCE_TOLERANCE
