"""Group-relative advantages (GRPO, Shao et al. 2024), also reward by reward (GDPO, Liu et al. 2026).

Rewards are NaN where no function applied; such completions stay out of every mean and deviation and get advantage 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather, own_rows
from affectgpt_r1.training.grpo_config import RewardScale

STD_EPSILON = 1e-4  # added to a standard deviation before dividing by it, as TRL and R1-Omni do

# Rewards of a group that differ by float noise only give no gradient; an exact std > 0 would miss them.
ZERO_STD_TOLERANCE = 1e-6


def group_advantages(rewards: Tensor, scale: RewardScale = "group") -> Tensor:
    """Return ``(B, G)`` advantages ``(r - mean_g) / (std + 1e-4)``, each group's summing to 0.

    Args:
        rewards: ``(B, G)``; NaN where no reward function applied.
        scale: Whose unbiased deviation divides, the group's or all processes' batch's; ``none`` leaves ``r - mean_g``.
    """
    centred = rewards - rewards.nanmean(1, keepdim=True)
    # The 1e-4 keeps a group of equal rewards at 0 / 1e-4 = 0, where 0 / 0 would be NaN. It also shrinks advantages of
    # nearly equal rewards, so it is not interchangeable with a smaller number.
    if scale == "group":
        centred = centred / (_std(rewards, dim=1) + STD_EPSILON)
    elif scale == "batch":
        centred = centred / (_std(all_gather(rewards)) + STD_EPSILON)
    return centred.nan_to_num(nan=0.0)


def objective_advantages(rewards_per_func: Tensor, weights: Tensor) -> Tensor:
    """Return ``(B, G)`` advantages, normalised for each reward function within its group and then over the batch.

    Args:
        rewards_per_func: ``(B, G, R)``; NaN where a function did not apply.
        weights: ``(R,)``.
    """
    # z_k = (r_k - mean_g) / (std_g + 1e-4),  S = sum_k w_k z_k,  A = (S - mean S) / (std S + 1e-4)
    known = ~rewards_per_func.isnan()
    centred = rewards_per_func - rewards_per_func.nanmean(1, keepdim=True)
    centred = centred / (_std(rewards_per_func, dim=1) + STD_EPSILON)
    total = (centred * weights).nansum(-1).masked_fill(~known.any(-1), torch.nan)
    gathered = all_gather(total)  # the batch is that of all processes
    normalised = (gathered - gathered.nanmean()) / (_std(gathered) + STD_EPSILON)
    return own_rows(normalised, len(total)).nan_to_num(nan=0.0)


def zero_std_groups(rewards: Tensor) -> Tensor:
    """Return which groups' completions all earn the same, and hence have no advantage.

    Args:
        rewards: ``(B, G)`` or ``(B, G, R)``.

    Returns:
        ``(B,)`` or ``(B, R)`` bool.
    """
    high = rewards.nan_to_num(nan=-torch.inf).amax(1)
    low = rewards.nan_to_num(nan=torch.inf).amin(1)
    return (high - low) <= ZERO_STD_TOLERANCE  # also where all are NaN: -inf


def _std(values: Tensor, dim: int | None = None) -> Tensor:
    """Return the unbiased deviation of the known values, dimensions kept; 0 where fewer than two are known."""
    dims = tuple(range(values.dim())) if dim is None else (dim,)
    count = (~values.isnan()).sum(dims, keepdim=True)
    squares = (values - values.nanmean(dims, keepdim=True)).square().nansum(dims, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()
