"""Group-relative advantages (Shao et al. 2024, GRPO) and their normalisation by objective (GDPO, Liu et al. 2026).

Rewards are NaN where none applied; such completions stay out of every mean and deviation and get advantage 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather, own_rows
from affectgpt_r1.training.grpo_config import RewardScale

STD_EPSILON = 1e-4
"""Added to a standard deviation before dividing by it, as TRL and R1-Omni do."""

ZERO_VARIANCE_TOLERANCE = 1e-6
"""Rewards of a group that differ by float noise only give no gradient; an exact ``std > 0`` would miss them."""


def group_advantages(rewards: Tensor, scale: RewardScale = "group") -> Tensor:
    """``(r - mean_g) / (std + 1e-4)`` with the unbiased standard deviation of the group or of all processes' batch.

    Args:
        rewards: ``(B, G)``; NaN where no reward applied.
        scale: Whose deviation divides; ``none`` leaves ``r - mean_g``.

    Returns:
        ``(B, G)``; each row sums to 0 over its finite entries.
    """
    centred = rewards - rewards.nanmean(1, keepdim=True)
    if scale == "group":
        centred = centred / (_std(rewards, dim=1) + STD_EPSILON)
    elif scale == "batch":
        centred = centred / (_std(all_gather(rewards)) + STD_EPSILON)
    return centred.nan_to_num(nan=0.0)


def objective_advantages(parts: Tensor, weights: Tensor) -> Tensor:
    """Normalise each reward within its group, sum with weights, normalise the sum over the batch (GDPO).

    ``z_k = (r_k - mean_g) / (std_g + 1e-4)``, ``S = sum_k w_k z_k``, ``A = (S - mean S) / (std S + 1e-4)``.

    Args:
        parts: ``(B, G, K)``; NaN where a reward did not apply.
        weights: ``(K,)``.

    Returns:
        ``(B, G)``.
    """
    known = ~parts.isnan()
    centred = (parts - parts.nanmean(1, keepdim=True)) / (_std(parts, dim=1) + STD_EPSILON)
    total = (centred * weights).nansum(-1).masked_fill(~known.any(-1), torch.nan)
    everyone = all_gather(total)
    normalised = (everyone - everyone.nanmean()) / (_std(everyone) + STD_EPSILON)
    return own_rows(normalised, len(parts)).nan_to_num(nan=0.0)


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


def _std(values: Tensor, dim: int | None = None) -> Tensor:
    """Unbiased, over the known values, dimensions kept; 0 where fewer than two are known."""
    dims = tuple(range(values.dim())) if dim is None else (dim,)
    count = (~values.isnan()).sum(dims, keepdim=True)
    squares = (values - values.nanmean(dims, keepdim=True)).square().nansum(dims, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()
