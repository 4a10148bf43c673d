"""Schulman's estimators of KL(policy || reference) from sampled tokens, none of them clamped.

A clamp would remove the gradient exactly where the drift is largest.
"""

from __future__ import annotations

from torch import Tensor

from affectgpt_r1.training.grpo_config import KLEstimator


def kl_estimate(per_token_logps: Tensor, ref_per_token_logps: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """``k1 = -d``, ``k2 = d^2 / 2``, ``k3 = exp(d) - d - 1`` with ``d = ref - logp``.

    Args:
        per_token_logps: ``(..., C)``.
        ref_per_token_logps: ``(..., C)``.
        estimator: k1 is unbiased and may be negative, k2 is biased, k3 is both unbiased and never negative.

    Returns:
        ``(..., C)``.
    """
    difference = ref_per_token_logps - per_token_logps
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return 0.5 * difference.square()
    return difference.exp() - difference - 1.0
