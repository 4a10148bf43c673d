"""The clipped policy losses of the GRPO family, with TRL's formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.functional.collective import gather_over_processes, num_processes, sum_over_processes
from affectgpt_r1.functional.kl import kl_estimate
from affectgpt_r1.functional.options import GRPOOptions, ImportanceSamplingLevel, LossType


class LossInputs(NamedTuple):
    """Scores of ``N`` completions of up to ``C`` tokens."""

    per_token_logps: Tensor  # (N, C) with gradient
    old_per_token_logps: Tensor  # (N, C) of the policy that sampled, without gradient
    advantages: Tensor  # (N,)
    mask: Tensor  # (N, C); 1 on tokens that the loss counts
    entropies: Tensor  # (N, C) nats; with gradient where an entropy bonus is asked for
    ref_per_token_logps: Tensor | None = None  # (N, C); needed where beta is not 0


class PolicyLoss(NamedTuple):
    """A scalar loss, and detached figures under TRL's names."""

    loss: Tensor
    logs: dict[str, Tensor]


def importance_ratio(log_ratio: Tensor, mask: Tensor, level: ImportanceSamplingLevel) -> Tensor:
    """``exp(logp - old)`` of each token, or ``exp`` of its mean over each completion (GSPO).

    Args:
        log_ratio: ``(N, C)``.
        mask: ``(N, C)``.
        level: Of what a ratio is taken.

    Returns:
        ``(N, C)`` for tokens, ``(N, 1)`` for completions.
    """
    if level == "sequence":
        log_ratio = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1.0)
    return log_ratio.exp()


def aggregate(
    per_token_loss: Tensor,
    mask: Tensor,
    loss_type: LossType,
    *,
    max_completion_length: int,
    tokens_per_step: Tensor | float | None = None,
) -> Tensor:
    """Reduce ``(N, C)`` token losses to a scalar whose gradients the processes then average.

    Args:
        per_token_loss: ``(N, C)``.
        mask: ``(N, C)``, 1 on tokens that count.
        loss_type: ``grpo`` averages each completion, then the completions. ``bnpo`` averages the tokens of this step
            over all processes. ``dr_grpo`` divides by the constant ``N * max_completion_length`` (Liu et al. 2025).
            ``dapo`` and ``cispo`` divide by ``tokens_per_step`` (Yu et al. 2025; Chen et al. 2025).
        max_completion_length: Only ``dr_grpo`` reads it.
        tokens_per_step: Tokens of the whole generation batch over processes and its steps; this step's when None.

    Returns:
        A scalar.
    """
    masked = per_token_loss * mask
    if loss_type == "grpo":
        return (masked.sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    if loss_type == "dr_grpo":
        return masked.sum() / (mask.shape[0] * max_completion_length)
    if loss_type == "bnpo" or tokens_per_step is None:
        tokens_per_step = _mean_count(mask)
    return masked.sum() / tokens_per_step


def top_entropy_mask(entropies: Tensor, mask: Tensor, quantile: float) -> Tensor:
    """Tokens whose entropy is among the highest ``quantile`` of all processes' (Wang et al. 2025).

    Args:
        entropies: ``(N, C)``.
        mask: ``(N, C)``.
        quantile: Share of the tokens to keep.

    Returns:
        ``(N, C)``, 1 on tokens that are kept.
    """
    everyone = gather_over_processes(entropies[mask.bool()].float())
    if not len(everyone):
        return torch.zeros_like(mask)
    return ((entropies.detach() >= torch.quantile(everyone, 1.0 - quantile)) & mask.bool()).to(mask.dtype)


def clipped_policy_loss(
    inputs: LossInputs,
    options: GRPOOptions,
    *,
    max_completion_length: int = 1,
    tokens_per_step: Tensor | float | None = None,
) -> PolicyLoss:
    """The loss of ``options.loss_type``: clipped policy term, KL penalty and entropy bonus.

    ``-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)``, for ``cispo`` ``-sg(min(rho, epsilon_high)) A logp``;
    plus ``beta`` times the KL estimate, minus ``entropy_coef`` times the mean entropy.

    Args:
        inputs: Scores and advantages.
        options: Which loss.
        max_completion_length: See :func:`aggregate`.
        tokens_per_step: See :func:`aggregate`.

    Returns:
        The loss and TRL's figures: ``entropy``, ``kl``, ``clip_ratio/...`` or ``cispo_clip_ratio``, ``policy_loss``.

    Raises:
        ValueError: ``beta`` is not 0 and no reference log-probs were given.
    """
    mask, advantage = inputs.mask, inputs.advantages.unsqueeze(-1)
    log_ratio = inputs.per_token_logps - inputs.old_per_token_logps
    ratio = importance_ratio(log_ratio, mask, options.importance_sampling_level)
    per_token = policy_term(ratio, advantage, inputs.per_token_logps, options)
    counted = mask
    if options.top_entropy_quantile < 1.0:
        counted = top_entropy_mask(inputs.entropies, mask, options.top_entropy_quantile)
        per_token = per_token * counted
    logs = {"entropy": _token_mean(inputs.entropies.detach(), mask), **_clip_logs(ratio, advantage, mask, options)}
    if options.beta != 0.0:
        kl = kl_penalty(inputs.per_token_logps, inputs.ref_per_token_logps, ratio, options)
        per_token = per_token + options.beta * kl
        logs["kl"] = _token_mean(kl.detach(), mask)
    loss = aggregate(
        per_token,
        mask,
        options.loss_type,
        max_completion_length=max_completion_length,
        tokens_per_step=tokens_per_step,
    )
    if options.entropy_coef != 0.0:
        logs["policy_loss"] = loss.detach()
        loss = loss - options.entropy_coef * (inputs.entropies * counted).sum() / _mean_count(counted)
    return PolicyLoss(loss, logs)


def policy_term(ratio: Tensor, advantage: Tensor, per_token_logps: Tensor, options: GRPOOptions) -> Tensor:
    """The clipped term of :func:`clipped_policy_loss` for each token, from tensors of one shape."""
    if options.loss_type == "cispo":
        return -ratio.clamp(max=options.upper_epsilon).detach() * advantage * per_token_logps
    clipped = ratio.clamp(1 - options.epsilon, 1 + options.upper_epsilon)
    return -torch.minimum(_capped(ratio, options) * advantage, clipped * advantage)


def kl_penalty(
    per_token_logps: Tensor, ref_per_token_logps: Tensor | None, ratio: Tensor, options: GRPOOptions
) -> Tensor:
    """The KL term of :func:`clipped_policy_loss` for each token, before ``beta``.

    Raises:
        ValueError: There are no reference log-probs.
    """
    if ref_per_token_logps is None:
        raise ValueError("beta is not 0, so ref_per_token_logps is needed")
    kl = kl_estimate(per_token_logps, ref_per_token_logps, options.kl_estimator)
    return kl * ratio if options.use_bias_correction_kl else kl


def _capped(ratio: Tensor, options: GRPOOptions) -> Tensor:
    return ratio if options.delta is None else ratio.clamp(max=options.delta)


@torch.no_grad()
def _clip_logs(ratio: Tensor, advantage: Tensor, mask: Tensor, options: GRPOOptions) -> Mapping[str, Tensor]:
    if options.loss_type == "cispo":
        return {"cispo_clip_ratio": _token_mean((ratio > options.upper_epsilon) & (advantage > 0), mask)}
    ratio = _capped(ratio, options)
    low = (ratio < 1 - options.epsilon) & (advantage < 0)
    high = (ratio > 1 + options.upper_epsilon) & (advantage > 0)
    return {
        "clip_ratio/low_mean": _token_mean(low, mask),
        "clip_ratio/low_min": _completion_means(low, mask).amin(),
        "clip_ratio/high_mean": _token_mean(high, mask),
        "clip_ratio/high_max": _completion_means(high, mask).amax(),
        "clip_ratio/region_mean": _token_mean(low | high, mask),
    }


def _token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all processes' tokens; over completions where there is one value each."""
    if values.shape[-1] == 1:
        mask = torch.ones_like(values, dtype=mask.dtype)
    totals = sum_over_processes(torch.stack([(values * mask).sum(), mask.sum()]))
    return totals[0] / totals[1].clamp(min=1.0)


def _completion_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each completion of all processes that has tokens, or a single 0."""
    own = values.squeeze(1).to(mask.dtype) if values.shape[-1] == 1 else (values * mask).sum(-1) / mask.sum(-1)
    means = gather_over_processes(own)
    means = means[~means.isnan()]
    return means if len(means) else mask.new_zeros(1)


def _mean_count(mask: Tensor) -> Tensor:
    """Tokens of a process, averaged over the processes, so that averaged gradients are those of one big batch."""
    return sum_over_processes(mask.sum()).clamp(min=1.0) / num_processes()
