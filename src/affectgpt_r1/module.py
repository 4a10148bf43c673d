"""The LightningModule: policy, stage and metrics, and the only ``self.log`` of the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from affectgpt_r1.data.skipped import SkippedClips
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.metrics.wheel import EmotionWheelScore
from affectgpt_r1.optim import parameter_groups
from affectgpt_r1.policy.checkpoint import check_fits, policy_digests
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.random_state import capture_random_state, derive_seed, restore_random_state
from affectgpt_r1.stages.answers import answer_statistics, parse_rollout
from affectgpt_r1.stages.base import Stage
from affectgpt_r1.types import ClipBatch, Completion, Sampling


class ResumableData(Protocol):
    """What a data module offers for exact resume."""

    def resume_position(self, epoch: int, batch: int) -> None:
        """Start the next training epoch ``epoch`` at batch ``batch``."""
        ...


class AffectModule(L.LightningModule):
    """Trains a policy by a stage and scores its greedy answers on the emotion wheels.

    Logs ``train/<name>`` as the stage names it (TRL's names) and ``val/f1``, ``val/precision``, ``val/recall`` and the
    answers' statistics.

    Args:
        policy: The multimodal policy.
        stage: The training strategy.
        lexicon: The words' clusters.
        optimizer: Takes parameter groups, returns the optimizer.
        scheduler: Takes the optimizer, returns a schedule stepped after every optimizer step.
        weight_decay: Decay of matrices.
        answer_sampling: How validation answers are decoded; greedy.
        seed: The run's seed.
        skipped: The account of unreadable clips so far.
    """

    def __init__(
        self,
        policy: MultimodalPolicy,
        stage: Stage,
        lexicon: Lexicon,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        *,
        weight_decay: float,
        answer_sampling: Sampling,
        seed: int,
        skipped: SkippedClips | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold only what trains; on_load_checkpoint checks them
        self.policy = policy
        self.stage = stage
        self.lexicon = lexicon
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.weight_decay = weight_decay
        self.answer_sampling = answer_sampling
        self.seed = seed
        self.skipped = skipped or SkippedClips()
        self.val_score = EmotionWheelScore(lexicon)
        self._val_completions: list[Completion] = []
        self._position = (0, 0)
        self._random_state: dict[str, Any] | None = None
        self._prepared = False
        self._step_started = time.perf_counter()

    def setup(self, stage: str) -> None:
        """Let the stage choose what trains, before the optimizer is built.

        Raises:
            ConfigError: The answer is forced open; log-probs of a text that the policy did not write teach nothing.
        """
        if stage == "fit" and self.policy.template.force_answer:
            raise ConfigError("prompt.force_answer is for evaluation: leave it out of training")
        if stage == "fit" and not self._prepared:
            self.stage.prepare(self.policy)
            self._prepared = True

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on what trains; the schedule counts optimizer steps."""
        optimizer = self.make_optimizer(parameter_groups(self.named_parameters(), self.weight_decay))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        """Restore the random state once, right before the first resumed batch."""
        self._step_started = time.perf_counter()
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """Run the stage on a batch.

        Returns:
            ``loss``, and the ``records`` for the completions table.
        """
        self._position = (self.current_epoch, batch_idx + 1)
        self.skipped.add_batch(batch)
        seed = derive_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        output = self.stage.training_step(self.policy, batch, seed=seed)
        logs = {f"train/{name}": torch.as_tensor(value, dtype=torch.float32) for name, value in output.logs.items()}
        logs["train/learning_rate"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        logs["train/step_time"] = torch.tensor(time.perf_counter() - self._step_started)
        self.log_dict(logs, on_step=True, on_epoch=False, batch_size=len(batch))
        return {"loss": output.loss, "records": output.records}

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Decode greedily and count."""
        self.skipped.add_batch(batch)
        if len(batch) == 0:
            return
        batch = self.policy.with_features(batch)
        logs = {f"val/{name}": value for name, value in self.stage.validation_step(self.policy, batch).items()}
        self.log_dict(logs, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)
        if self.stage.answers:
            rollout = self.policy.generate(batch, 1, self.answer_sampling)
            completions = parse_rollout(rollout, batch.names, thinks=self.policy.thinks)
            self.val_score.update([completion.labels for completion in completions], list(batch.labels))
            self._val_completions.extend(completions)

    def on_validation_epoch_end(self) -> None:
        """Log the wheel scores and the answers' statistics."""
        if not self._val_completions:
            return
        scores = self.val_score.compute()
        statistics = answer_statistics(self._val_completions, self.lexicon)
        self.log_dict({f"val/{name}": float(scores[name]) for name in ("f1", "precision", "recall")})
        self.log_dict({f"val/answers/{name}": value for name, value in statistics.items()}, sync_dist=True)
        self.val_score.reset()
        self._val_completions = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains, and add all else that an exact resume needs."""
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in trainable
        }
        checkpoint["digests"] = policy_digests(self.policy)
        checkpoint["reference"] = self.policy.reference_state()
        checkpoint["position"] = list(self._position)
        checkpoint["random_state"] = capture_random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits, and take up where it stopped."""
        check_fits(checkpoint, self.policy, "ckpt_path")
        self.policy.load_reference_state(checkpoint["reference"])
        epoch, batch = checkpoint["position"]
        self._position = (epoch, batch)
        self._random_state = checkpoint["random_state"]
        data: ResumableData | None = getattr(self.trainer, "datamodule", None)
        if data is not None:
            data.resume_position(epoch, batch)
