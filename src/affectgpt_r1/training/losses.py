"""The clipped policy losses of the GRPO family, with TRL's formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather, all_reduce_sum, num_processes
from affectgpt_r1.training.grpo_config import GRPOConfig, ImportanceSamplingLevel, LossType
from affectgpt_r1.training.kl import kl_estimate
from affectgpt_r1.training.log_values import extreme
from affectgpt_r1.types import LogValue


class LossInputs(NamedTuple):
    """Scores of ``N`` completions of up to ``C`` tokens."""

    per_token_logps: Tensor  # (N, C) with gradient
    old_per_token_logps: Tensor  # (N, C) of the policy that sampled, without gradient
    advantages: Tensor  # (N,)
    mask: Tensor  # (N, C); 1 on tokens that the loss counts
    entropies: Tensor  # (N, C) nats; with gradient where an entropy bonus is asked for
    ref_per_token_logps: Tensor | None = None  # (N, C); needed where beta is not 0


class PolicyLoss(NamedTuple):
    """A scalar loss, and detached values under TRL's names."""

    loss: Tensor
    logs: dict[str, LogValue]  # of this process alone
    num_items: Tensor | float  # what aggregate() divided by, but for a constant


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
        tokens_per_step: Tokens of the whole generation batch over processes and its steps; this step's when None. May
            be 0 where nothing counts.

    Returns:
        A scalar.
    """
    masked = per_token_loss * mask
    if loss_type == "grpo":
        return (masked.sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    if loss_type == "dr_grpo":
        return masked.sum() / (mask.shape[0] * max_completion_length)
    items = num_items(mask, loss_type, tokens_per_step=tokens_per_step)
    return masked.sum() / _or_one(items)


def num_items(mask: Tensor, loss_type: LossType, *, tokens_per_step: Tensor | float | None = None) -> Tensor | float:
    """What :func:`aggregate` divides by, but for the constant of ``dr_grpo``: completions or tokens.

    Args:
        mask: ``(N, C)``, 1 on tokens that count.
        loss_type: See :func:`aggregate`.
        tokens_per_step: See :func:`aggregate`.

    Returns:
        ``N`` for ``grpo`` and ``dr_grpo``, else a number of tokens averaged over processes; 0 where none counts.
    """
    if loss_type in ("grpo", "dr_grpo"):
        return float(mask.shape[0])
    if loss_type == "bnpo" or tokens_per_step is None:
        return all_reduce_sum(mask.sum()) / num_processes()
    return tokens_per_step


def top_entropy_mask(entropies: Tensor, mask: Tensor, quantile: float) -> Tensor:
    """Tokens whose entropy is among the highest ``quantile`` of all processes' (Wang et al. 2025).

    Args:
        entropies: ``(N, C)``.
        mask: ``(N, C)``.
        quantile: Share of the tokens to keep.

    Returns:
        ``(N, C)``, 1 on tokens that are kept.
    """
    everyone = all_gather(entropies[mask.bool()].float())
    if not len(everyone):
        return torch.zeros_like(mask)
    return ((entropies.detach() >= torch.quantile(everyone, 1.0 - quantile)) & mask.bool()).to(mask.dtype)


def clipped_policy_loss(
    inputs: LossInputs,
    config: GRPOConfig,
    *,
    max_completion_length: int = 1,
    tokens_per_step: Tensor | float | None = None,
) -> PolicyLoss:
    """The loss of ``config.loss_type``: clipped policy term, KL penalty and entropy bonus.

    ``-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)``, for ``cispo`` ``-sg(min(rho, epsilon_high)) A logp``;
    plus ``beta`` times the KL estimate, minus ``entropy_coef`` times the mean entropy.

    Args:
        inputs: Scores and advantages.
        config: Which loss.
        max_completion_length: See :func:`aggregate`.
        tokens_per_step: See :func:`aggregate`.

    Returns:
        The loss, what it was divided by, and TRL's values: ``entropy``, ``kl``, ``clip_ratio/...`` or
        ``cispo_clip_ratio``, ``policy_loss``.

    Raises:
        ValueError: ``beta`` is not 0 and no reference log-probs were given.
    """
    mask, advantage = inputs.mask, inputs.advantages.unsqueeze(-1)
    log_ratio = inputs.per_token_logps - inputs.old_per_token_logps
    ratio = importance_ratio(log_ratio, mask, config.importance_sampling_level)
    per_token = policy_term(ratio, advantage, inputs.per_token_logps, config)
    counted = mask
    if config.top_entropy_quantile < 1.0:
        counted = top_entropy_mask(inputs.entropies, mask, config.top_entropy_quantile)
        per_token = per_token * counted
    logs = {
        "entropy": token_mean(inputs.entropies.detach(), mask),
        **_clip_logs(ratio, advantage, mask, config),
    }
    if config.beta != 0.0:
        kl = kl_penalty(inputs.per_token_logps, inputs.ref_per_token_logps, ratio, config)
        per_token = per_token + config.beta * kl
        logs["kl"] = token_mean(kl.detach(), mask)
    loss = aggregate(
        per_token,
        mask,
        config.loss_type,
        max_completion_length=max_completion_length,
        tokens_per_step=tokens_per_step,
    )
    if config.entropy_coef != 0.0:
        logs["policy_loss"] = LogValue("mean", loss.detach())
        tokens = all_reduce_sum(counted.sum()) / num_processes()
        loss = loss - config.entropy_coef * (inputs.entropies * counted).sum() / _or_one(tokens)
    return PolicyLoss(loss, logs, num_items(mask, config.loss_type, tokens_per_step=tokens_per_step))


def policy_term(ratio: Tensor, advantage: Tensor, per_token_logps: Tensor, config: GRPOConfig) -> Tensor:
    """The clipped term of :func:`clipped_policy_loss` for each token, from tensors of one shape."""
    if config.loss_type == "cispo":
        return -ratio.clamp(max=config.upper_epsilon).detach() * advantage * per_token_logps
    clipped = ratio.clamp(1 - config.epsilon, 1 + config.upper_epsilon)
    return -torch.minimum(_capped(ratio, config) * advantage, clipped * advantage)


def kl_penalty(
    per_token_logps: Tensor, ref_per_token_logps: Tensor | None, ratio: Tensor, config: GRPOConfig
) -> Tensor:
    """The KL term of :func:`clipped_policy_loss` for each token, before ``beta``.

    Raises:
        ValueError: There are no reference log-probs.
    """
    if ref_per_token_logps is None:
        raise ValueError("beta is not 0, so ref_per_token_logps is needed")
    kl = kl_estimate(per_token_logps, ref_per_token_logps, config.kl_estimator)
    return kl * ratio if config.use_bias_correction_kl else kl


def _capped(ratio: Tensor, config: GRPOConfig) -> Tensor:
    return ratio if config.delta is None else ratio.clamp(max=config.delta)


@torch.no_grad()
def _clip_logs(ratio: Tensor, advantage: Tensor, mask: Tensor, config: GRPOConfig) -> Mapping[str, LogValue]:
    if config.loss_type == "cispo":
        return {"cispo_clip_ratio": token_mean((ratio > config.upper_epsilon) & (advantage > 0), mask)}
    ratio = _capped(ratio, config)
    low = (ratio < 1 - config.epsilon) & (advantage < 0)
    high = (ratio > 1 + config.upper_epsilon) & (advantage > 0)
    low_means, high_means = _completion_means(low, mask), _completion_means(high, mask)
    return {
        "clip_ratio/low_mean": token_mean(low, mask),
        "clip_ratio/low_min": extreme("min", low_means),
        "clip_ratio/high_mean": token_mean(high, mask),
        "clip_ratio/high_max": extreme("max", high_means),
        "clip_ratio/region_mean": token_mean(low | high, mask),
    }


def token_mean(values: Tensor, mask: Tensor) -> LogValue:
    """Mean over tokens; over completions where there is one value each."""
    if values.shape[-1] == 1:
        mask = torch.ones_like(values, dtype=mask.dtype)
    count = mask.sum()
    return LogValue("mean", (values * mask).sum() / count.clamp(min=1.0), count)


def _completion_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each completion that has tokens."""
    means = values.squeeze(1).to(mask.dtype) if values.shape[-1] == 1 else (values * mask).sum(-1) / mask.sum(-1)
    return means[~means.isnan()]


def _or_one(count: Tensor | float) -> Tensor | float:
    """A divisor for a sum over ``count`` items, which is 0 where there is none."""
    if isinstance(count, Tensor):
        return count.masked_fill(count == 0, 1.0)
    return count or 1.0
