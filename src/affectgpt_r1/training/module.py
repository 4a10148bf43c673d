"""The LightningModule: a policy that a stage trains, scored on the emotion wheels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from affectgpt_r1.distributed.fsdp import ShardedStrategy
from affectgpt_r1.distributed.sharding import full_tensor
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.policy.checkpoint import check_fits, check_reference, policy_digests
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training import sanity_checks as checks
from affectgpt_r1.training.accumulation import AccumulatedStep
from affectgpt_r1.training.base import MixedStage, Stage, join_stage_and_data
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.log_values import log_step, pooled_over_ranks, show_callbacks
from affectgpt_r1.training.optim import OptimizerFactory
from affectgpt_r1.training.random_state import derive_seed
from affectgpt_r1.training.validation import ValidationRecord
from affectgpt_r1.types import ClipBatch, LogValue, Sampling


class AffectModule(L.LightningModule):
    """Train a policy by a stage; log ``train/<name>`` as the stage names it, and ``val/f1`` and the like.

    Raises:
        ConfigError: The answer is forced open (log-probs of a text that the policy did not write teach nothing), no
            weight trains, or one would train in half precision.
    """

    def __init__(
        self,
        policy: MultimodalPolicy,
        stage: Stage,
        lexicon: Lexicon,
        optimizer_factory: OptimizerFactory,
        *,
        answer_sampling: Sampling,
        seed: int,
    ) -> None:
        super().__init__()
        if policy.template.force_answer:
            raise ConfigError("prompt.force_answer is for evaluation: leave it out of training")
        self.strict_loading = False  # checkpoints hold only what trains; on_load_checkpoint checks them
        self.policy, self.stage, self.optimizer_factory = policy, stage, optimizer_factory
        self.answer_sampling, self.seed = answer_sampling, seed
        self.val_score = EmotionWheelScore(lexicon)
        self.validation, self.accumulated = ValidationRecord(), AccumulatedStep()
        stage.prepare(policy)
        checks.check_trainable(self.named_parameters(), type(stage).__name__)
        checks.check_full_precision(self.named_parameters())
        self.digests = policy_digests(policy)  # now: later a strategy may shard the frozen weights
        self.run_config: dict[str, Any] = {}  # for checkpoints; ExactResume sets it

    def configure_model(self) -> None:
        """Let FSDP shard the policy; Lightning asks for it in this hook."""
        if isinstance(self.trainer.strategy, ShardedStrategy):
            self.trainer.strategy.shard_policy(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of what trains, and its schedule by optimizer steps."""
        optimizer = self.optimizer_factory.build_optimizer(self.named_parameters())
        scheduler = self.optimizer_factory.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Tell the data module how many steps visit each batch, and let dropout differ between processes."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        join_stage_and_data(self.stage, data, self.trainer.accumulate_grad_batches)
        if self.trainer.world_size > 1:
            checks.check_local_rows(len(data.splits.validation), self.trainer.world_size)
            torch.manual_seed(derive_seed(self.seed, self.global_rank))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """Run the stage on a micro-batch; return ``loss``, and ``records`` for the completions table."""
        seed = derive_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        if isinstance(self.stage, MixedStage):
            self.stage.global_step = self.global_step
        output = self.stage.training_step(self.policy, batch, seed=seed)
        checks.check_loss_has_gradient(output.loss, type(self.stage).__name__)
        checks.check_finite(output, batch, Path(self.trainer.default_root_dir), self.global_step, self._remedy())
        num_items, num_batches = float(output.num_items), self.trainer.accumulate_grad_batches
        logs = {**output.logs, "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"]}
        self.accumulated.add(logs, num_items, repeated=() if len(batch) else output.generation_logs)
        # The Trainer divides each loss by num_batches, also where an epoch's last step has fewer. Multiplied here by
        # num_batches * num_items, the gradients add up to sum(num_items * grad): on_before_optimizer_step divides.
        loss = output.loss * (num_items * num_batches) if num_batches > 1 else output.loss
        return {"loss": loss, "records": output.records}

    def on_after_backward(self) -> None:
        """Stop if no weight got a gradient."""
        checks.check_gradients(self.parameters(), type(self.stage).__name__)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make the gradients a mean over the step's items, stop before a step that would spoil the weights, and log."""
        # Processes have averaged their gradients by now; clipping comes after.
        if self.trainer.accumulate_grad_batches > 1:
            checks.divide_gradients(self.parameters(), self.accumulated.num_items)
        norm = full_tensor(checks.gradient_norm(self.parameters()))
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of 16-mixed
        checks.check_finite_gradients(norm, self.global_step, self._remedy(), scaler=scaler)
        self.log_train({**pooled_over_ranks(self.accumulated.logs, self.device), "grad_norm": norm})
        self.accumulated.has_stepped = True

    def on_train_batch_end(self, outputs: Any, batch: ClipBatch, batch_idx: int) -> None:
        """Give an optimizer step's values to the loggers where it is done, and begin the next step."""
        if self.accumulated.has_stepped:
            log_step(self.trainer, self.accumulated.values)
            self.accumulated = AccumulatedStep()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """Decode greedily and count; return the ``completions``, on which callbacks may look."""
        if completions := self.validation.add(self.policy, self.stage, batch, self.answer_sampling):
            self.val_score.update([completion.labels for completion in completions], list(batch.labels))
        return {"completions": completions}

    def on_validation_epoch_end(self) -> None:
        """Log the wheel scores and the answers' statistics, of the clips of every process."""
        record, self.validation = self.validation.gathered(), ValidationRecord()
        metrics = record.metrics(self.policy.template.kind, self.val_score)
        self.log_dict({f"val/{name}": value for name, value in metrics.items()})
        self.val_score.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what trains, digests of the rest, and the configuration; :class:`ExactResume` adds the run's state."""
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in trainable}
        checkpoint |= {"reference": self.policy.reference_state(), "config": self.run_config, "digests": self.digests}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this model, before its weights are loaded."""
        check_fits(checkpoint, self.policy, "ckpt_path", self.digests)
        check_reference(checkpoint["reference"], self.policy, "ckpt_path")

    def log_train(self, values: Mapping[str, LogValue | Tensor]) -> None:
        """Log values of an optimizer step that are the same in every process."""
        self.accumulated.values |= show_callbacks(self.trainer, values)

    def _remedy(self) -> str:
        return checks.divergence_remedy(Path(self.trainer.default_root_dir), has_kl=isinstance(self.stage, GRPOStage))
