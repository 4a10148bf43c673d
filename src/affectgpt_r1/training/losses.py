"""The clipped policy losses of the GRPO family, with TRL's formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather, all_reduce_sum, world_size
from affectgpt_r1.engine.base import PrecomputedGrads
from affectgpt_r1.training.grpo_config import GRPOConfig, ImportanceSamplingLevel, KLEstimator, LossType
from affectgpt_r1.training.log_values import extreme
from affectgpt_r1.training.rollout_buffer import RolloutBuffer
from affectgpt_r1.types import LogValue


class PolicyLoss(NamedTuple):
    """A scalar loss, and detached values under TRL's names."""

    loss: Tensor
    logs: dict[str, LogValue]  # of this process alone
    num_items: Tensor | float  # what aggregate() divided by, but for a constant


def grpo_loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    ref_per_token_logps: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    config: GRPOConfig,
    *,
    entropies: Tensor,
    importance_sampling_ratio: Tensor | None = None,
    max_completion_length: int = 1,
    tokens_per_step: Tensor | float | None = None,
) -> PolicyLoss:
    """Return the loss of ``config.loss_type``: clipped policy term, KL penalty and entropy bonus.

    Args:
        per_token_logps: ``(..., C)`` of the policy, with gradient.
        old_per_token_logps: ``(..., C)`` of the policy that sampled, without gradient.
        ref_per_token_logps: ``(..., C)`` of the reference; needed where ``beta`` is not 0.
        advantages: ``(...)``.
        completion_mask: ``(..., C)``, 1 on tokens that the loss counts.
        config: Which loss.
        entropies: ``(..., C)`` in nats, with gradient where ``entropy_coef`` is not 0.
        importance_sampling_ratio: Of :func:`sampling_correction`; None where the policy itself has sampled.
        max_completion_length: See :func:`aggregate`.
        tokens_per_step: See :func:`aggregate`.

    Returns:
        The loss, what it was divided by, and TRL's values: ``entropy``, ``kl``, ``clip_ratio/...`` or
        ``cispo_clip_ratio``, ``policy_loss``.

    Raises:
        ValueError: ``beta`` is not 0 and no reference log-probs were given.
    """
    advantage = advantages.unsqueeze(-1)  # one for all tokens of a completion
    # rho = pi / pi_old. On-policy both are equal and rho is 1; what remains is its gradient, rho * d log pi.
    ratio = importance_ratio(per_token_logps - old_per_token_logps, completion_mask, config.importance_sampling_level)
    per_token_loss = policy_term(ratio, advantage, per_token_logps, config)
    counted = completion_mask
    if config.top_entropy_quantile < 1.0:
        # The other tokens' policy loss is 0; the divisor below stays that of all tokens, as in TRL.
        counted = top_entropy_mask(entropies, completion_mask, config.top_entropy_quantile)
        per_token_loss = per_token_loss * counted
    logs = {
        "entropy": token_mean(entropies.detach(), completion_mask),
        **_clip_logs(ratio, advantage, completion_mask, config),
    }
    if importance_sampling_ratio is not None:  # before KL, as in TRL
        per_token_loss = per_token_loss * importance_sampling_ratio
        logs |= _correction_logs(importance_sampling_ratio, completion_mask)
    if config.beta != 0.0:
        kl = kl_penalty(per_token_logps, ref_per_token_logps, ratio, config)
        per_token_loss = per_token_loss + config.beta * kl
        logs["kl"] = token_mean(kl.detach(), completion_mask)
    items = num_items(completion_mask, config.loss_type, tokens_per_step=tokens_per_step)
    loss = aggregate(
        per_token_loss,
        completion_mask,
        config.loss_type,
        max_completion_length=max_completion_length,
        tokens_per_step=items,
    )
    if config.entropy_coef != 0.0:
        logs["policy_loss"] = LogValue("mean", loss.detach())
        # The bonus is a mean over tokens of all processes, whatever loss_type divides by.
        tokens = all_reduce_sum(counted.sum()) / world_size()
        loss = loss - config.entropy_coef * (entropies * counted).sum() / _or_one(tokens)
    return PolicyLoss(loss, logs, items)


def precompute_policy_grads(
    config: GRPOConfig, step: RolloutBuffer, *, corrects: bool = False
) -> PrecomputedGrads | None:
    """Return the gradients of :func:`grpo_loss` in log-probs, as a function of these.

    Args:
        config: Which loss.
        step: The completions.
        corrects: Whether :func:`sampling_correction` weighs the tokens.

    Returns:
        None where a token's gradient depends on other tokens, on entropies or on a second pass.
    """
    needs_more = config.top_entropy_quantile < 1 or config.entropy_coef != 0 or config.faithfulness_coef != 0
    needs_more |= corrects and config.corrects_sequences
    if config.importance_sampling_level == "sequence" or needs_more:
        return None
    mask, tokens = step.completion_mask, step.completions.mask.bool()  # (B, G, C)
    counted, advantage = mask[tokens], step.advantages.unsqueeze(-1).expand_as(mask)[tokens]
    # Constants by which the whole loss is divided are left out: all tokens share them. grpo's lengths are not one.
    lengths = (
        mask.sum(-1, keepdim=True).clamp(min=1.0) if config.loss_type == "grpo" else torch.ones_like(mask[..., :1])
    )
    length = lengths.expand_as(mask)[tokens]
    old = None if step.old_per_token_logps is None else step.old_per_token_logps[tokens]
    reference = None if step.ref_per_token_logps is None else step.ref_per_token_logps[tokens]
    sampling = step.sampling_per_token_logps[tokens] if corrects else None

    def precomputed_grads(logps: Tensor, rows: slice) -> Tensor:
        with torch.enable_grad():
            own = logps.detach().requires_grad_()
            before = logps if old is None else old[rows]
            ratio = (own - before).exp()
            losses = policy_term(ratio, advantage[rows], own, config)
            if sampling is not None:
                losses = losses * sampling_correction(before, sampling[rows], torch.ones_like(before), config)
            if config.beta != 0.0:
                losses = losses + config.beta * kl_penalty(
                    own, None if reference is None else reference[rows], ratio, config
                )
            return torch.autograd.grad((losses * counted[rows] / length[rows]).sum(), own)[0]

    return precomputed_grads


def importance_ratio(log_ratio: Tensor, mask: Tensor, level: ImportanceSamplingLevel) -> Tensor:
    """Return ``exp(logp - old)`` of each token ``(..., C)``, or one of each completion ``(..., 1)``."""
    if level == "sequence":
        # GSPO (Zheng et al. 2025): the geometric mean over tokens, s = (pi(y) / pi_old(y))^(1 / |y|).
        log_ratio = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1.0)
    return log_ratio.exp()


def sampling_correction(old: Tensor, sampling: Tensor, mask: Tensor, config: GRPOConfig) -> Tensor:
    """Return the importance weight of each token ``(..., C)``, or in ``sequence_*`` modes of each completion.

    Another program has sampled, by kernels and rounding of its own: the tokens are those of mu, not of pi_old. Weights
    w = pi_old / mu correct this, and their bounds keep the variance finite (Yao et al. 2025; TRL's formula).

    Args:
        old: ``(..., C)`` log-probs of the weights that sampled, by the update's own pass.
        sampling: ``(..., C)`` log-probs under which the tokens were drawn.
        mask: ``(..., C)``, 1 on tokens that count.
        config: Mode and bounds.
    """
    log_ratio = (old - sampling).detach() * mask
    ratio = (log_ratio.sum(-1, keepdim=True) if config.corrects_sequences else log_ratio).exp()
    low, high = config.vllm_importance_sampling_clip_min, config.vllm_importance_sampling_clip_max
    low, high = -torch.inf if low is None else low, torch.inf if high is None else high
    if config.vllm_importance_sampling_mode.endswith("_truncate"):
        return ratio.clamp(low, high)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


def policy_term(ratio: Tensor, advantage: Tensor, per_token_logps: Tensor, config: GRPOConfig) -> Tensor:
    """Return the clipped loss of each token, from tensors of one shape."""
    epsilon_high = _epsilon_high(config)
    if config.loss_type == "cispo":
        # -sg(min(rho, epsilon_high)) A log pi (Chen et al. 2025): clipped weights keep their gradient.
        return -ratio.clamp(max=epsilon_high).detach() * advantage * per_token_logps
    # -min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) (PPO; a higher upper bound is DAPO's clip-higher). Where
    # the clipped side is smaller, the gradient is 0: only steps further in the advantage's own direction are cut.
    clipped = ratio.clamp(1 - config.epsilon, 1 + epsilon_high)
    return -torch.minimum(_capped(ratio, config) * advantage, clipped * advantage)


def kl_penalty(
    per_token_logps: Tensor, ref_per_token_logps: Tensor | None, ratio: Tensor, config: GRPOConfig
) -> Tensor:
    """Return the KL term of each token, before ``beta``.

    Raises:
        ValueError: There are no reference log-probs.
    """
    if ref_per_token_logps is None:
        raise ValueError("beta is not 0, so ref_per_token_logps is needed")
    kl = kl_estimate(per_token_logps, ref_per_token_logps, config.kl_estimator)
    # The tokens are pi_old's; weighted by rho, the estimate is one of KL(pi || ref) (DeepSeek-V3.2).
    return kl * ratio if config.use_bias_correction_kl else kl


def kl_estimate(per_token_logps: Tensor, ref_per_token_logps: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Return Schulman's estimate of KL(policy || reference) from sampled tokens, ``(..., C)``.

    Args:
        per_token_logps: ``(..., C)``.
        ref_per_token_logps: ``(..., C)``.
        estimator: k1 is unbiased and may be negative, k2 is biased, k3 is both unbiased and never negative.
    """
    # d = log ref - log pi. None is clamped: that would remove the gradient exactly where the drift is largest.
    difference = ref_per_token_logps - per_token_logps
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return 0.5 * difference.square()
    return difference.exp() - difference - 1.0  # k3 = ref/pi - log(ref/pi) - 1


def faithfulness_loss(
    per_token_logps: Tensor, masked_per_token_logps: Tensor, mask: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Return the mean over completions of ``max(0, margin - KL)``, and the KL of each token without gradient.

    KL is that of the policy that sees all modalities to the same policy that lacks one, a mean over a completion's
    tokens. It has a gradient in both (PAPO, arXiv 2507.06448; OPPO, arXiv 2606.25325); the margin bounds it, without
    which the policy would gain by unlearning to answer a masked prompt.

    Args:
        per_token_logps: ``(..., C)`` of completions sampled with all modalities.
        masked_per_token_logps: ``(..., C)`` of the same completions, with one left out of the prompt.
        mask: ``(..., C)``, 1 on tokens that count; completions without any do not.
        margin: In nats per token.
    """
    kl = kl_estimate(per_token_logps, masked_per_token_logps) * mask
    tokens = mask.sum(-1)
    hinge = (margin - kl.sum(-1) / tokens.clamp(min=1.0)).clamp(min=0.0)
    counted = (tokens > 0).to(hinge.dtype)
    return (hinge * counted).sum() / counted.sum().clamp(min=1.0), kl.detach()


def aggregate(
    per_token_loss: Tensor,
    mask: Tensor,
    loss_type: LossType,
    *,
    max_completion_length: int,
    tokens_per_step: Tensor | float | None = None,
) -> Tensor:
    """Reduce ``(..., C)`` token losses to a scalar whose gradients the processes then average.

    Args:
        per_token_loss: ``(..., C)``.
        mask: ``(..., C)``, 1 on tokens that count.
        loss_type: See below.
        max_completion_length: Only ``dr_grpo`` reads it.
        tokens_per_step: Tokens of the generation batch over processes and its steps; this step's when None. May be 0.
    """
    masked = per_token_loss * mask
    if loss_type == "grpo":
        # 1/N sum_i 1/|y_i| sum_t: each completion weighs the same, so a token of a long one weighs less.
        return (masked.sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    if loss_type == "dr_grpo":
        # 1/(N L) sum_i sum_t with a constant L (Liu et al. 2025): every token weighs the same, whatever the lengths.
        return masked.sum() / (mask[..., 0].numel() * max_completion_length)
    # bnpo: the mean over this step's tokens. dapo (Yu et al. 2025) and cispo: over a mean step's of the generation
    # batch, so that steps of one batch weigh their tokens alike.
    items = tokens_per_step
    if items is None:
        items = num_items(mask, loss_type)
    return masked.sum() / _or_one(items)


def num_items(mask: Tensor, loss_type: LossType, *, tokens_per_step: Tensor | float | None = None) -> Tensor | float:
    """Return what :func:`aggregate` divides by, but for the constant of ``dr_grpo``.

    Args:
        mask: ``(..., C)``, 1 on tokens that count.
        loss_type: See :func:`aggregate`.
        tokens_per_step: See :func:`aggregate`.

    Returns:
        ``N`` for ``grpo`` and ``dr_grpo``, else a number of tokens averaged over processes; 0 where none counts.
    """
    if loss_type in ("grpo", "dr_grpo"):
        return float(mask[..., 0].numel())
    if loss_type == "bnpo" or tokens_per_step is None:
        # The mean of all processes' token numbers, since their gradients are averaged, too:
        # mean_p(sum_p / mean tokens) = sum over all tokens / all tokens.
        return all_reduce_sum(mask.sum()) / world_size()
    return tokens_per_step


def top_entropy_mask(entropies: Tensor, mask: Tensor, quantile: float) -> Tensor:
    """Return the ``(..., C)`` mask of the fraction ``quantile`` of tokens with the highest entropies."""
    # Of all processes' tokens (Wang et al. 2025).
    gathered = all_gather(entropies[mask.bool()].float())
    if not len(gathered):
        return torch.zeros_like(mask)
    return ((entropies.detach() >= torch.quantile(gathered, 1.0 - quantile)) & mask.bool()).to(mask.dtype)


def token_mean(values: Tensor, mask: Tensor) -> LogValue:
    """Return the mean over tokens; over completions where there is one value each."""
    if values.shape[-1] == 1:
        mask = torch.ones_like(values, dtype=mask.dtype)
    count = mask.sum()
    return LogValue("mean", (values * mask).sum() / count.clamp(min=1.0), count)


def _epsilon_high(config: GRPOConfig) -> float:
    return config.epsilon if config.epsilon_high is None else config.epsilon_high


def _capped(ratio: Tensor, config: GRPOConfig) -> Tensor:
    # Two-sided clipping: with A < 0 the minimum above has no upper bound of its own.
    return ratio if config.delta is None else ratio.clamp(max=config.delta)


@torch.no_grad()
def _clip_logs(ratio: Tensor, advantage: Tensor, mask: Tensor, config: GRPOConfig) -> Mapping[str, LogValue]:
    epsilon_high = _epsilon_high(config)
    if config.loss_type == "cispo":
        return {"cispo_clip_ratio": token_mean((ratio > epsilon_high) & (advantage > 0), mask)}
    ratio = _capped(ratio, config)
    low = (ratio < 1 - config.epsilon) & (advantage < 0)
    high = (ratio > 1 + epsilon_high) & (advantage > 0)
    return {
        "clip_ratio/low_mean": token_mean(low, mask),
        "clip_ratio/low_min": extreme("min", _completion_means(low, mask)),
        "clip_ratio/high_mean": token_mean(high, mask),
        "clip_ratio/high_max": extreme("max", _completion_means(high, mask)),
        "clip_ratio/region_mean": token_mean(low | high, mask),
    }


def _correction_logs(ratio: Tensor, mask: Tensor) -> dict[str, LogValue]:
    """Return mean and extremes over tokens, or over completions where there is one weight each."""
    weights = ratio.flatten() if ratio.shape[-1] == 1 else ratio[mask.bool()]
    return {
        "sampling/importance_sampling_ratio/mean": token_mean(ratio, mask),
        "sampling/importance_sampling_ratio/min": extreme("min", weights),
        "sampling/importance_sampling_ratio/max": extreme("max", weights),
    }


def _completion_means(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each completion that has tokens."""
    means = values.squeeze(-1).to(mask.dtype) if values.shape[-1] == 1 else (values * mask).sum(-1) / mask.sum(-1)
    return means[~means.isnan()]


def _or_one(count: Tensor | float) -> Tensor | float:
    """Return a divisor for a sum over ``count`` items; 1 where there is none, and the sum is 0."""
    if isinstance(count, Tensor):
        return count.masked_fill(count == 0, 1.0)
    return count or 1.0
