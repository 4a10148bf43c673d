"""Supervised fine-tuning: masked token negative log-likelihood of the target answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_reduce_sum, world_size
from affectgpt_r1.policy.base import Policy
from affectgpt_r1.types import ClipBatch, LogValue, Phase, StageOutput


class SFTStage:
    """Train the target text of each clip; the prompt carries no loss."""

    answers = True
    validation_logs = ("loss",)

    def __init__(self) -> None:
        self.phase: Phase = nullcontext

    def prepare(self, policy: Policy) -> None:
        """Do nothing: what trains was chosen when the policy was built."""

    def training_step(self, policy: Policy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """See :class:`~affectgpt_r1.training.base.Stage`."""
        with self.phase("forward"):
            loss, tokens = supervised_loss(policy, batch)
        return StageOutput(loss, {"loss": LogValue("mean", loss.detach(), tokens)}, num_items=tokens)

    @torch.no_grad()
    def validation_step(self, policy: Policy, batch: ClipBatch) -> Mapping[str, LogValue]:
        """Return the loss, a mean over tokens as in training."""
        targets = policy.encode_targets(batch)
        loss = -masked_mean(policy.per_token_logps(batch, targets), targets.mask)
        return {"loss": LogValue("mean", loss, targets.mask.sum())}


def supervised_loss(policy: Policy, batch: ClipBatch, *, weighting: str = "none") -> tuple[Tensor, Tensor]:
    """Return the loss of the target answers, and the tokens that it was divided by.

    Args:
        policy: What answers.
        batch: Clips with labels.
        weighting: ``phi`` multiplies each token's loss by p (1 - p), without gradient; ``none`` by 1.
    """
    targets = policy.encode_targets(batch)
    logps = policy.per_token_logps(batch, targets)
    weights = targets.mask
    if weighting == "phi":
        probs = logps.detach().exp()
        weights = weights * probs * (1.0 - probs)
    # -sum log p / mean_p(tokens): processes then average gradients, and every token of the global batch weighs
    # the same. Accumulated micro-batches are weighted by num_items, their tokens.
    tokens = all_reduce_sum(targets.mask.sum()).clamp(min=1.0) / world_size()
    return -(logps * weights).sum() / tokens, tokens


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` where ``mask`` is 1; 0 if nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1.0)
