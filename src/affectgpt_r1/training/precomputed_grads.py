"""What the gradients of a policy loss in the log-probabilities will be, precomputed while these are being formed."""

from __future__ import annotations

import torch
from torch import Tensor

from affectgpt_r1.engine.base import PrecomputedGrads
from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.losses import kl_penalty, policy_term
from affectgpt_r1.training.rollout_buffer import RolloutBuffer


def precompute_policy_grads(config: GRPOConfig, step: RolloutBuffer) -> PrecomputedGrads | None:
    """Return the gradients of :func:`~affectgpt_r1.training.losses.grpo_loss` in log-probs, as a function of these.

    Args:
        config: Which loss.
        step: The completions.

    Returns:
        None where a token's gradient depends on other tokens or on entropies.
    """
    if config.importance_sampling_level == "sequence" or config.top_entropy_quantile < 1 or config.entropy_coef != 0:
        return None
    mask, tokens = step.loss_mask, step.completions.mask.bool()  # (B, G, C)
    counted, advantage = mask[tokens], step.advantages.unsqueeze(-1).expand_as(mask)[tokens]
    # Constants by which the whole loss is divided are left out: all tokens share them. grpo's lengths are not one.
    lengths = (
        mask.sum(-1, keepdim=True).clamp(min=1.0) if config.loss_type == "grpo" else torch.ones_like(mask[..., :1])
    )
    length = lengths.expand_as(mask)[tokens]
    old = None if step.old_per_token_logps is None else step.old_per_token_logps[tokens]
    reference = None if step.ref_per_token_logps is None else step.ref_per_token_logps[tokens]

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
