"""KL to the weights that GRPO started from, at every validation, also where ``stage.beta`` is 0."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather_objects
from affectgpt_r1.distributed.sharding import is_sharded
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.log_values import pooled
from affectgpt_r1.training.losses import kl_estimate
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.rollout_buffer import without_long_prompts
from affectgpt_r1.types import ClipBatch, LogValue

SEED = 0  # the same draws at every validation, of a generator of their own: training draws what it would without them


class ValidationKL(pl.Callback):
    """Log ``val/kl`` in nats per token, of one sampled answer to each of the first validation clips of every process.

    With ``stage.beta`` the stage keeps the reference; without, this callback and its checkpoints do, on the CPU.
    Stages other than GRPO log nothing, and neither does a sharded policy whose stage keeps no reference.

    Args:
        max_clips: Clips of each process.
    """

    def __init__(self, max_clips: int = 32) -> None:
        self._max_clips = max_clips
        self._reference: dict[str, Tensor] = {}
        self._num_clips = 0
        self._logs: list[dict[str, LogValue]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the weights before a checkpoint replaces them, and before a strategy shards them."""
        assert isinstance(pl_module, AffectModule)
        policy, trained_by = pl_module.policy, cast(object, pl_module.stage)
        if stage == "fit" and isinstance(trained_by, GRPOStage) and not policy.reference_state():
            weights = policy.trainable_parameters().items()
            self._reference = {name: weight.detach().to("cpu", copy=True) for name, weight in weights}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so where nothing will be logged."""
        assert isinstance(pl_module, AffectModule)
        if self._reference and is_sharded(pl_module.policy):
            rank_zero_info("val/kl is not logged: weights are sharded, and stage.beta=0 keeps no reference")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch, until there are enough."""
        assert isinstance(pl_module, AffectModule)
        policy, stage = pl_module.policy, cast(object, pl_module.stage)
        if trainer.sanity_checking or not isinstance(stage, GRPOStage) or self._num_clips >= self._max_clips:
            return
        is_lent = not policy.reference_state()
        if is_lent and (not self._reference or is_sharded(policy)):
            return
        batch = without_long_prompts(policy, policy.with_features(batch))
        if not len(batch):
            return
        self._num_clips += len(batch)
        generator = torch.Generator().manual_seed(SEED + batch_idx)
        completions = policy.generate(batch, 1, stage.sampling, generator).completions
        logps = policy.per_token_logps(batch, completions, stage.sampling.temperature)
        try:
            if is_lent:
                policy.load_reference_state(self._reference)
            with policy.reference():
                ref_logps = policy.per_token_logps(batch, completions, stage.sampling.temperature)
        finally:
            if is_lent:
                policy.load_reference_state({})
        mask = completions.mask.bool()
        kl = kl_estimate(logps, ref_logps, stage.config.kl_estimator)[mask]
        self._logs.append({"kl": LogValue("mean", float(kl.mean()), float(mask.sum()))})

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the mean over the tokens of all processes."""
        gathered = all_gather_objects(self._logs)
        self._logs, self._num_clips = [], 0
        logs = [log for of_process in gathered for log in of_process]
        if logs:
            pl_module.log_dict({f"val/{name}": float(value) for name, value in pooled(logs).items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the reference."""
        return {"reference": self._reference}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the reference that the run began with."""
        self._reference = dict(state_dict["reference"])
