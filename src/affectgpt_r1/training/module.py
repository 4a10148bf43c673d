"""The LightningModule: policy, stage and metrics, and the only ``self.log`` of the package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.distributed import sharding
from affectgpt_r1.distributed.collectives import gather_objects_to_rank_zero
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.engine.timing import add_seconds, now, peak_memory_mib, take_phases
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.policy.checkpoint import check_fits, check_reference, policy_digests, state_digest
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.questions import CHOICES, LABEL_KINDS
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.accumulation import AccumulatedStep
from affectgpt_r1.training.base import BufferedStage, ResumableData, Stage
from affectgpt_r1.training.completions import parse_rollout
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.hacking_probe import HackingProbe
from affectgpt_r1.training.log_values import log_state, logs_from_state, pooled_over_ranks
from affectgpt_r1.training.optim import build_optimizer, replay_settings
from affectgpt_r1.training.random_state import capture_random_state, derive_seed, restore_random_state
from affectgpt_r1.training.rollout_buffer import to_device
from affectgpt_r1.training.sanity_checks import (
    check_finite,
    check_finite_gradients,
    check_full_precision,
    check_gradients,
    check_local_rows,
    check_loss_has_gradient,
    check_num_processes,
    check_trainable,
    divergence_remedy,
    divide_gradients,
    gradient_norm,
)
from affectgpt_r1.training.validation import ValidationRecord
from affectgpt_r1.types import ClipBatch, LogValue, Sampling

log = logging.getLogger(__name__)


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
        config: The run's resolved configuration as plain values; checkpoints carry it under ``config``, so that what
            reads them later needs no file beside them.
        content: Digests of what the configuration names by path, by key; ``init_from``, the digest of the weights that
            training starts from, is added.
        config_changes: Settings that have changed where the run was resumed.
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
        skipped: UnreadableClips | None = None,
        config: Mapping[str, Any] | None = None,
        content: Mapping[str, str] | None = None,
        config_changes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold only what trains; on_load_checkpoint checks them
        self.policy = policy
        self.stage, self._stage_name = stage, type(stage).__name__
        self.lexicon = lexicon
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.weight_decay = weight_decay
        self.answer_sampling = answer_sampling
        self.seed = seed
        self.skipped = skipped or UnreadableClips()
        self.config = dict(config or {})
        self.content = dict(content or {})
        self.config_changes = [dict(change) for change in config_changes]
        self.val_score = EmotionWheelScore(lexicon)
        self._validation = ValidationRecord()
        self._probe: HackingProbe | None = None
        self._probe_logs: dict[str, LogValue] = {}  # of the newest generation batch
        self._position = (0, 0)
        self._random_state: dict[str, Any] | None = None
        self._prepared = False
        self._digests: dict[str, str] = {}
        self._gradients: dict[str, Tensor] = {}
        self._step = AccumulatedStep()
        self._phase_names: dict[str, float] = {}
        self._batch_started: float | None = None
        self._phase_started = now()

    def setup(self, stage: str) -> None:
        """Let the stage choose what trains, before the optimizer is built.

        Raises:
            ConfigError: The answer is forced open; log-probs of a text that the policy did not write teach nothing.
        """
        if stage == "fit" and self.policy.template.force_answer:
            raise ConfigError("prompt.force_answer is for evaluation: leave it out of training")
        if stage == "fit" and not self._prepared:
            self.stage.prepare(self.policy)
            check_trainable(self.named_parameters(), self._stage_name)
            check_full_precision(self.named_parameters())
            self._digests = policy_digests(self.policy)  # now, while every process holds whole weights
            self.content["init_from"] = state_digest(self.policy.trainable_parameters())
            self._prepared = True
        if stage == "fit" and isinstance(self.stage, BufferedStage) and (data := self._resumable_data()):
            data.use_schedule(self.stage.schedule)

    def configure_model(self) -> None:
        """Shard the policy's weights where the strategy asks for it; frozen encoders are small, and stay.

        Raises:
            ConfigError: The stage trains weights beside the policy's.
        """
        if self._device_mesh is None or sharding.is_sharded(self.policy):
            return
        if any(one.requires_grad for name, one in self.named_parameters() if not name.startswith("policy.")):
            raise ConfigError(f"trainer=fsdp deals the policy's weights only; use trainer=ddp for {self._stage_name}")
        encoders = self.policy.encoders
        sharding.shard(
            self.policy,
            self._device_mesh["data_parallel"],
            methods=("logps_and_entropies", "per_token_logps"),
            ignored_params=encoders.parameters() if encoders.frozen else (),
        )

    def on_fit_start(self) -> None:
        """Let dropout differ between processes, and choose the constant answers by which reward hacking is judged."""
        splits = getattr(getattr(self.trainer, "datamodule", None), "splits", None)
        targets = [] if splits is None else [row.labels for row in splits.validation]
        if self.trainer.world_size > 1:
            check_local_rows(len(targets), self.trainer.world_size)
            torch.manual_seed(derive_seed(self.seed, self.global_rank))
        rewards: WeightedRewards | None = getattr(self.stage, "rewards", None)
        if rewards is not None:
            self._probe = HackingProbe(rewards, self.lexicon, targets, enable_thinking=self.policy.enable_thinking)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on what trains; the schedule counts optimizer steps."""
        optimizer = build_optimizer(self.make_optimizer, self.named_parameters(), self.weight_decay)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        """Restore the random state, and gradients that were being accumulated, right before the first resumed batch."""
        self._batch_started = now()
        take_phases()  # validation's are no training step's
        if batch_idx % self.trainer.accumulate_grad_batches == 0:  # where the Trainer zeroes gradients
            self._step = AccumulatedStep()
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None
            # The step under which values are logged: Lightning restores one too few where the checkpoint was written
            # by the validation of a run that was stopping.
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step
        if self._gradients:
            for name, parameter in self.named_parameters():
                if name in self._gradients:
                    parameter.grad = sharding.distribute_like(self._gradients[name].to(parameter.device), parameter)
            self._gradients = {}
        sharding.unshard(self.policy)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """Run the stage on a micro-batch.

        The Trainer divides each loss by ``accumulate_grad_batches``, also in an epoch's rest. So under accumulation the
        loss is multiplied by that number and by its items; :meth:`on_before_optimizer_step` divides the gradients by
        the items of all micro-batches.

        Returns:
            ``loss``, and the ``records`` for the completions table.
        """
        self._position = (self.current_epoch, batch_idx + 1)
        self.skipped.add_batch(batch)
        seed = derive_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        output = self.stage.training_step(self.policy, batch, seed=seed)
        check_loss_has_gradient(output.loss, self._stage_name)
        check_finite(output, batch, Path(self.trainer.default_root_dir), self.global_step, self._remedy())
        logs: dict[str, LogValue | Tensor | float] = dict(output.logs)
        if self._probe is not None and len(batch):
            rewards = self._probe.constant_answer_rewards(batch.labels)
            self._probe_logs = {f"hacking/{name}": value for name, value in rewards.items()}
        logs |= self._probe_logs
        logs["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        num_items = float(output.num_items)
        repeated = () if len(batch) else (*output.generation_logs, *self._probe_logs)
        self._step.add(logs, num_items, repeated=repeated)
        loss, accumulated = output.loss, self.trainer.accumulate_grad_batches
        if accumulated > 1:
            loss = loss * (num_items * accumulated)
        return {"loss": loss, "records": output.records}

    def on_before_backward(self, loss: Tensor) -> None:
        """Time the backward pass."""
        self._phase_started = now()

    def on_after_backward(self) -> None:
        """Stop if no weight got a gradient."""
        add_seconds("backward", now() - self._phase_started)
        check_gradients(self.parameters(), self._stage_name)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make the gradients a mean over the step's items, log what its micro-batches logged, and time the step.

        Processes have averaged their gradients by now, and clipping comes after. A step that would spoil the weights is
        stopped.
        """
        self._phase_started = now()
        if self.trainer.accumulate_grad_batches > 1:
            divide_gradients(self.parameters(), self._step.num_items)
        norm = sharding.full_tensor(gradient_norm(self.parameters()))
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        check_finite_gradients(norm, self.global_step, self._remedy(), scaler=scaler)
        logs = pooled_over_ranks(self._step.logs, self.device)
        self._log_step(logs)
        self._log_step({"grad_norm": norm})
        self._step.has_stepped = True

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Step as the Trainer does, and time it; the closure inside it runs forward and backward pass."""
        super().optimizer_step(*arguments, **options)
        add_seconds("optimizer", now() - self._phase_started)

    def on_train_batch_end(self, outputs: Any, batch: ClipBatch, batch_idx: int) -> None:
        """Log how long the micro-batches of a step and their phases took, and the peak memory."""
        self._take_times()
        self._batch_started = None
        if not self._step.has_stepped:
            return
        self._phase_names |= dict.fromkeys(self._step.seconds, 0.0)
        times = {**self._phase_names, **self._step.seconds}  # a phase left out took no time
        logs = {name: LogValue("mean", seconds) for name, seconds in times.items()}
        logs["memory/peak_mib"] = LogValue("max", peak_memory_mib())
        self._log_step(pooled_over_ranks(logs, self.device))
        self._step = AccumulatedStep()

    def on_validation_start(self) -> None:
        """Gather sharded weights: processes may have unequally many batches, and none may wait for another in them."""
        sharding.unshard(self.policy)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Decode greedily and count; a description or a valence is judged by its loss alone."""
        self.skipped.add_batch(batch)
        if len(batch) == 0:
            return
        batch = self.policy.with_features(batch)
        self._validation.add_logs(self.stage.validation_step(self.policy, batch), len(batch))
        kind = self.policy.template.kind
        if self.stage.answers and kind in ("", *LABEL_KINDS, *CHOICES):
            rollout = self.policy.generate(batch, 1, self.answer_sampling)
            completions = parse_rollout(rollout, batch.names, enable_thinking=self.policy.enable_thinking, kind=kind)
            if kind in CHOICES:
                self._validation.add_choices(kind, completions, batch.annotations)
                return
            self.val_score.update([completion.labels for completion in completions], list(batch.labels))
            self._validation.add_answers(completions, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log the wheel scores and the answers' statistics, of the clips of every process."""
        sharding.reshard(self.policy)  # now, before callbacks save the gradients that sharded weights have accumulated
        record, self._validation = self._validation.gathered(), ValidationRecord()
        logs = record.mean_logs() | record.choice_metrics(self.policy.template.kind)
        if record.completions:
            scores = self.val_score.compute()
            logs |= {name: float(scores[name]) for name in ("f1", "precision", "recall")}
            logs |= record.answer_metrics(self.lexicon, self._probe)
        self.val_score.reset()
        self.log_dict({f"val/{name}": value for name, value in logs.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains, and add all else that an exact resume needs."""
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in trainable
        }
        self._digests = self._digests or policy_digests(self.policy)
        checkpoint["digests"] = dict(self._digests)
        checkpoint["reference"] = self.policy.reference_state()
        checkpoint["position"] = list(self._position)
        checkpoint |= {"config": self.config, "content": self.content, "config_changes": self.config_changes}
        # Pickled, a tensor comes back on the device that it was on, which is another process's.
        states = gather_objects_to_rank_zero(to_device(self._process_state(), torch.device("cpu")))
        checkpoint |= {**states[0], "other_processes": states[1:]} if states else {}  # the first process writes it

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits, and take up where it stopped, with today's settings of the optimizer.

        Raises:
            CheckpointError: It is of another model, other weights to start from, or another number of processes.
        """
        check_fits(checkpoint, self.policy, "ckpt_path", self._digests)
        check_reference(checkpoint["reference"], self.policy, "ckpt_path")
        self._resume_start(checkpoint)
        before = checkpoint.get("config", {})
        # The schedule may be as long as the trainer's steps or epochs.
        if any(self.config.get(group) != before.get(group) for group in ("optim", "trainer")):
            today = build_optimizer(self.make_optimizer, self.named_parameters(), self.weight_decay)
            replay_settings(today, self.make_scheduler, checkpoint)
        self._position = epoch, batch = tuple(checkpoint["position"])
        states = [checkpoint, *checkpoint.get("other_processes", ())]
        check_num_processes(len(states), self.trainer.world_size)
        own = states[self.global_rank]
        self._random_state = own["random_state"]
        self._step = AccumulatedStep.from_state(own.get("accumulated"), has_gradients=bool(checkpoint["gradients"]))
        self._gradients = sharding.accumulated_gradients(
            [state["gradients"] for state in states], self.global_rank, sharded=sharding.is_sharded(self.policy)
        )
        if "skipped" in own:
            earlier = UnreadableClips()
            earlier.load_state_dict(own["skipped"])
            self.skipped.merge([earlier])
        self._probe_logs = logs_from_state(own.get("probe_logs", {}))
        if isinstance(self.stage, BufferedStage):
            self.stage.load_buffer_state(own["rollout_buffer"])
        if data := self._resumable_data():
            data.resume_position(epoch, batch)

    def _resume_start(self, checkpoint: dict[str, Any]) -> None:
        """Check the weights that training started from, and take the reference for the KL term.

        The reference is a copy of those weights. A run with ``stage.beta=0`` has stored none; where beta was raised the
        copy that the stage took of today's ``init_from`` serves, if its digest says that they are the same.

        Raises:
            CheckpointError: ``init_from`` names other weights.
        """
        before = checkpoint.get("content", {}).get("init_from")
        started, today = (one.get("init_from") for one in (checkpoint.get("config", {}), self.config))
        is_same = before == self.content.get("init_from")
        named = "the seed" if started is None else f"init_from={started}"
        if before is not None and today not in (None, started) and not is_same:
            raise CheckpointError(
                f"init_from={today}: the run of ckpt_path started from other weights, those of {named}. Resume with "
                "these or with init_from=null, or leave ckpt_path out"
            )
        taken = self.policy.reference_state()
        if taken and not checkpoint["reference"]:
            if not is_same:
                raise CheckpointError(
                    f"stage.beta: the KL term needs the weights that training started from, those of {named}. "
                    "ckpt_path does not store them, since stage.beta was 0, and today's init_from does not name them. "
                    "Name them, or leave stage.beta=0"
                )
            log.info("The KL term's reference: the weights of init_from, from which the run started")
        else:
            self.policy.load_reference_state(checkpoint["reference"])
        if before is not None:
            self.content["init_from"] = before
        if today is None and started is not None:
            self.config["init_from"] = started  # checkpoints to come say where the whole run started

    def _resumable_data(self) -> ResumableData | None:
        data: ResumableData | None = getattr(self.trainer, "datamodule", None)
        return data

    def _remedy(self) -> str:
        """What helps against values that are not finite."""
        return divergence_remedy(
            Path(self.trainer.default_root_dir) / "checkpoints" / "last.ckpt", has_kl=isinstance(self.stage, GRPOStage)
        )

    def _log_step(self, values: Mapping[str, LogValue | Tensor]) -> None:
        """Log values that are the same in every process: ``sync_dist`` would take an operation for each."""
        logs = {f"train/{name}": float(value) for name, value in values.items()}
        self.log_dict(logs, on_step=True, on_epoch=False, batch_size=1)

    def _take_times(self) -> None:
        """Add the times of the present micro-batch, or what has come since the last call, to its step's."""
        if self._batch_started is not None:
            times, moment = {f"time/{name}": seconds for name, seconds in take_phases().items()}, now()
            self._step.add_seconds({"step_time": moment - self._batch_started, **times})
            self._batch_started = moment

    def _process_state(self) -> dict[str, Any]:
        """What an exact resume needs of each process."""
        self._take_times()
        state = {
            "gradients": self._accumulated_gradients(),
            "accumulated": self._step.state(),
            "random_state": self._random_state or capture_random_state(),  # one that is not restored yet is the next
            "skipped": self.skipped.state_dict(),
            "probe_logs": log_state(self._probe_logs),
        }
        if isinstance(self.stage, BufferedStage):
            state["rollout_buffer"] = self.stage.buffer_state()
        return state

    def _accumulated_gradients(self) -> dict[str, Tensor] | None:
        """Gradients of batches whose step is still to come; sharded ones are those of all, and the first has them."""
        if not self._step.is_open:
            return {}
        named = {name: one.grad for name, one in self.named_parameters() if one.grad is not None}
        gradients: dict[str, Tensor] = self._gradients or sharding.full_tensor(
            named
        )  # not restored yet, or accumulating
        return None if sharding.is_sharded(self.policy) and self.global_rank > 0 else gradients
