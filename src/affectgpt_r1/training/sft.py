"""Supervised fine-tuning: masked token negative log-likelihood of the target answer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from affectgpt_r1.distributed.collectives import all_reduce_sum, num_processes
from affectgpt_r1.engine.logprobs import masked_mean
from affectgpt_r1.engine.timing import phase
from affectgpt_r1.policy.base import Policy
from affectgpt_r1.types import ClipBatch, LogValue, StageOutput


class SFTStage:
    """Teaches the target text of each clip; the prompt carries no loss."""

    answers = True
    validation_logs = ("loss",)

    def prepare(self, policy: Policy) -> None:
        """Nothing to prepare: what trains was chosen when the policy was built."""

    def training_step(self, policy: Policy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """See :class:`~affectgpt_r1.training.base.Stage`.

        Each process divides by the tokens of all, so that averaged gradients weigh every token of the global batch
        alike; micro-batches that are accumulated are weighted by their tokens.
        """
        targets = policy.encode_targets(batch)
        with phase("forward"):
            logps = policy.per_token_logps(batch, targets)
            tokens = all_reduce_sum(targets.mask.sum()).clamp(min=1.0) / num_processes()
            loss = -(logps * targets.mask).sum() / tokens
        return StageOutput(loss, {"loss": LogValue("mean", loss.detach(), tokens)}, num_items=tokens)

    @torch.no_grad()
    def validation_step(self, policy: Policy, batch: ClipBatch) -> Mapping[str, LogValue]:
        """The loss on held-out clips, a mean over tokens as in training."""
        targets = policy.encode_targets(batch)
        loss = -masked_mean(policy.per_token_logps(batch, targets), targets.mask)
        return {"loss": LogValue("mean", loss, targets.mask.sum())}
