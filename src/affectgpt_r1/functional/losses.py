"""The clipped GRPO loss and its KL penalty."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from affectgpt_r1.functional.logprobs import masked_mean

LossType: TypeAlias = Literal["grpo", "bnpo", "dr_grpo"]


class PolicyLoss(NamedTuple):
    """A scalar loss and the detached shares of tokens that were clipped."""

    loss: Tensor  # ()
    kl: Tensor  # (); 0 without reference log-probs
    clip_low: Tensor  # (); share of completion tokens with ratio < 1 - epsilon and a negative advantage
    clip_high: Tensor  # (); share of completion tokens with ratio > 1 + epsilon and a positive advantage


def k3_kl(per_token_logps: Tensor, ref_per_token_logps: Tensor) -> Tensor:
    """Schulman's k3 estimator ``exp(ref - logp) - (ref - logp) - 1``, unclamped.

    A clamp would remove the gradient exactly where the drift is largest.

    Args:
        per_token_logps: ``(..., C)``.
        ref_per_token_logps: ``(..., C)``.

    Returns:
        ``(..., C)``, never negative.
    """
    difference = ref_per_token_logps - per_token_logps
    return difference.exp() - difference - 1.0


def aggregate(per_token_loss: Tensor, mask: Tensor, loss_type: LossType, max_completion_length: int) -> Tensor:
    """Reduce ``(N, C)`` token losses to a scalar.

    Args:
        per_token_loss: ``(N, C)``.
        mask: ``(N, C)``, 1 on completion tokens.
        loss_type: ``grpo`` averages each completion, then the completions; ``bnpo`` averages all tokens;
            ``dr_grpo`` divides by the constant ``N * max_completion_length`` (Liu et al. 2025).
        max_completion_length: Only ``dr_grpo`` reads it.

    Returns:
        A scalar.
    """
    masked = per_token_loss * mask
    if loss_type == "grpo":
        return (masked.sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    if loss_type == "bnpo":
        return masked.sum() / mask.sum().clamp(min=1.0)
    return masked.sum() / (mask.shape[0] * max_completion_length)


def clipped_policy_loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    ref_per_token_logps: Tensor | None = None,
    beta: float = 0.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    loss_type: LossType = "grpo",
    max_completion_length: int = 1,
) -> PolicyLoss:
    """``-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) + beta k3``, reduced by ``loss_type``.

    Args:
        per_token_logps: ``(N, C)`` with gradient.
        old_per_token_logps: ``(N, C)`` of the policy that sampled, without gradient.
        advantages: ``(N,)``.
        mask: ``(N, C)``.
        ref_per_token_logps: ``(N, C)``; required when ``beta`` is not 0.
        beta: Weight of the KL penalty.
        epsilon: Lower clip range.
        epsilon_high: Upper clip range; ``epsilon`` when None.
        loss_type: See :func:`aggregate`.
        max_completion_length: See :func:`aggregate`.

    Returns:
        The loss and its detached diagnostics.

    Raises:
        ValueError: ``beta`` is not 0 and no reference log-probs were given.
    """
    if beta != 0.0 and ref_per_token_logps is None:
        raise ValueError("beta is not 0, so ref_per_token_logps is needed")
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = (per_token_logps - old_per_token_logps).exp()
    advantage = advantages.unsqueeze(-1)
    per_token = -torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + high) * advantage)
    kl = torch.zeros_like(per_token)
    if ref_per_token_logps is not None:
        kl = k3_kl(per_token_logps, ref_per_token_logps)
        per_token = per_token + beta * kl
    with torch.no_grad():
        low_share = masked_mean((ratio < 1 - epsilon) & (advantage < 0), mask)
        high_share = masked_mean((ratio > 1 + high) & (advantage > 0), mask)
        mean_kl = masked_mean(kl, mask)
    return PolicyLoss(aggregate(per_token, mask, loss_type, max_completion_length), mean_kl, low_share, high_share)
