"""What the gradients of a policy loss in the log-probabilities will be, precomputed while these are being formed."""

from __future__ import annotations

import torch
from torch import Tensor

from affectgpt_r1.engine.base import PrecomputedGrads
from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.losses import kl_penalty, policy_term


def precompute_policy_grads(
    config: GRPOConfig,
    *,
    scored: Tensor,
    mask: Tensor,
    advantages: Tensor,
    old_per_token_logps: Tensor | None,
    ref_per_token_logps: Tensor | None,
) -> PrecomputedGrads | None:
    """The precomputed_grads for :func:`~affectgpt_r1.training.losses.clipped_policy_loss`, by its own terms.

    Constants by which the whole loss is divided are left out: they are factors that all tokens share.

    Args:
        config: Which loss.
        scored: ``(N, C)`` bool, tokens that are scored.
        mask: ``(N, C)``, 1 on tokens that the loss counts.
        advantages: ``(N,)``.
        old_per_token_logps: ``(N, C)`` of the policy that sampled; None where it is the present one.
        ref_per_token_logps: ``(N, C)`` of the reference; None without one.

    Returns:
        The precomputed_grads; None where a token's gradient depends on other tokens or on entropies.
    """
    if config.importance_sampling_level == "sequence" or config.top_entropy_quantile < 1 or config.entropy_coef != 0:
        return None
    counted, advantage = mask[scored], advantages.unsqueeze(-1).expand_as(mask)[scored]
    lengths = mask.sum(-1, keepdim=True).clamp(min=1.0) if config.loss_type == "grpo" else torch.ones_like(mask[:, :1])
    length = lengths.expand_as(mask)[scored]
    old = None if old_per_token_logps is None else old_per_token_logps[scored]
    reference = None if ref_per_token_logps is None else ref_per_token_logps[scored]

    def precomputed_grads(logps: Tensor, rows: slice) -> Tensor:
        with torch.enable_grad():
            own = logps.detach().requires_grad_()
            ratio = (own - (logps if old is None else old[rows])).exp()
            losses = policy_term(ratio, advantage[rows], own, config)
            if config.beta != 0.0:
                losses = losses + config.beta * kl_penalty(
                    own, None if reference is None else reference[rows], ratio, config
                )
            return torch.autograd.grad((losses * counted[rows] / length[rows]).sum(), own)[0]

    return precomputed_grads
