"""Checkpoints from which a run continues bit-equal to one that never stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from affectgpt_r1.distributed import sharding
from affectgpt_r1.distributed.collectives import gather_objects_to_rank_zero
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import state_digest
from affectgpt_r1.training.accumulation import AccumulatedStep
from affectgpt_r1.training.base import BufferedStage, HasProcessState
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.optim import replay_settings
from affectgpt_r1.training.random_state import capture_random_state, restore_random_state
from affectgpt_r1.training.rollout_buffer import to_device
from affectgpt_r1.training.sanity_checks import check_num_processes

log = logging.getLogger(__name__)


class ExactResume(pl.Callback):
    """Add to each checkpoint what Lightning leaves out of it, and restore that.

    Of the run: its configuration, and the batch that comes next. Of each process: the random state, gradients that are
    being accumulated, the rollout buffer, and what the other callbacks have as :class:`HasProcessState`.

    It precedes the other callbacks, which may use in ``on_train_batch_start`` what it restores there.

    Args:
        config: The run's resolved configuration as plain values.
        content: Digests of what the configuration names by path, by key; ``init_from``, the digest of the weights that
            training starts from, is added.
        config_changes: Settings that have changed where the run was resumed.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        content: Mapping[str, str],
        config_changes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config = dict(config)
        self.content = dict(content)
        self.config_changes = [dict(change) for change in config_changes]
        self._position = (0, 0)  # epoch and batch that come next
        self._random_state: dict[str, Any] | None = None  # until it is restored
        self._gradients: dict[str, Tensor] = {}  # until they are restored

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Digest the weights that training starts from, while each process holds full tensors."""
        assert isinstance(pl_module, AffectModule)
        # The module stores it: for ModelCheckpoint(save_weights_only=True), Lightning asks no callback.
        pl_module.run_config = self.config
        self.content["init_from"] = state_digest(pl_module.policy.trainable_parameters())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the random state and accumulated gradients right before the first batch: start-up changes both."""
        assert isinstance(pl_module, AffectModule)
        self._position = (trainer.current_epoch, batch_idx + 1)
        if batch_idx % trainer.accumulate_grad_batches == 0:  # where the Trainer sets gradients to zero
            pl_module.accumulated = AccumulatedStep()
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None
            # The step under which values are logged: Lightning restores one too few where the checkpoint was written
            # by the validation of a run that was stopping.
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        if self._gradients:
            for name, parameter in pl_module.named_parameters():
                if name in self._gradients:
                    parameter.grad = sharding.distribute_like(self._gradients[name].to(parameter.device), parameter)
            self._gradients = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of the run and of every process."""
        checkpoint |= {"position": list(self._position), "content": self.content}
        checkpoint["config_changes"] = self.config_changes
        # On the CPU: a pickled tensor comes back on the device that it was on, which is another process's.
        own = to_device(self.process_state(trainer, pl_module), torch.device("cpu"))
        if states := gather_objects_to_rank_zero(own):  # the first process writes the file
            checkpoint |= {**states[0], "other_processes": states[1:]}

    def process_state(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return what an exact resume needs of this process."""
        assert isinstance(pl_module, AffectModule)
        state = {
            "gradients": self._accumulated_gradients(pl_module),
            "accumulated": pl_module.accumulated.state(),
            "random_state": self._random_state or capture_random_state(),  # one that is not restored yet comes next
        }
        if isinstance(pl_module.stage, BufferedStage):
            state["rollout_buffer"] = pl_module.stage.buffer_state()
        for callback in _with_state(trainer):
            state |= callback.process_state()
        return state

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue where the checkpoint was written, with today's settings of the optimizer.

        Raises:
            CheckpointError: The run started from other weights, or has another number of processes.
        """
        assert isinstance(pl_module, AffectModule)
        self._check_start(pl_module, checkpoint)
        before = checkpoint.get("config", {})
        # The schedule may be as long as the trainer's steps or epochs.
        if any(self.config.get(group) != before.get(group) for group in ("optim", "trainer")):
            factory = pl_module.optimizer_factory
            optimizer = factory.build_optimizer(pl_module.named_parameters())
            replay_settings(optimizer, factory.make_scheduler, checkpoint)
        states = [checkpoint, *checkpoint.get("other_processes", ())]
        check_num_processes(len(states), trainer.world_size)
        own = states[trainer.global_rank]
        self._random_state = own["random_state"]
        pl_module.accumulated = AccumulatedStep.from_state(
            own.get("accumulated"), has_gradients=bool(checkpoint["gradients"])
        )
        self._gradients = sharding.accumulated_gradients(
            [state["gradients"] for state in states],
            trainer.global_rank,
            sharded=sharding.is_sharded(pl_module.policy),
        )
        if isinstance(pl_module.stage, BufferedStage):
            pl_module.stage.load_buffer_state(own["rollout_buffer"])
        for callback in _with_state(trainer):
            callback.load_process_state(own)
        self._position = epoch, batch = tuple(checkpoint["position"])
        if data := getattr(trainer, "datamodule", None):
            data.resume_position(epoch, batch)

    def _check_start(self, module: AffectModule, checkpoint: dict[str, Any]) -> None:
        """Check the weights that training started from, and take the reference for the KL term.

        Raises:
            CheckpointError: ``init_from`` names other weights.
        """
        before = checkpoint.get("content", {}).get("init_from")
        started, today = (config.get("init_from") for config in (checkpoint.get("config", {}), self.config))
        is_same = before == self.content["init_from"]
        named = "the seed" if started is None else f"init_from={started}"
        if before is not None and today not in (None, started) and not is_same:
            raise CheckpointError(
                f"init_from={today}: the run of ckpt_path started from other weights, those of {named}. Resume with "
                "these or with init_from=null, or leave ckpt_path out"
            )
        # The reference is a copy of the weights that training started from. A run with stage.beta=0 has stored none;
        # where beta was raised, the copy that the stage took of today's init_from serves if its digest is the same.
        if module.policy.reference_state() and not checkpoint["reference"]:
            if not is_same:
                raise CheckpointError(
                    f"stage.beta: the KL term needs the weights that training started from, those of {named}. "
                    "ckpt_path does not store them, since stage.beta was 0, and today's init_from does not name them. "
                    "Name them, or leave stage.beta=0"
                )
            log.info("The KL term's reference: the weights of init_from, from which the run started")
        else:
            module.policy.load_reference_state(checkpoint["reference"])
        if before is not None:
            self.content["init_from"] = before
        if today is None and started is not None:
            self.config["init_from"] = started  # checkpoints to come name the start of the run, not of its last part

    def _accumulated_gradients(self, module: AffectModule) -> dict[str, Tensor] | None:
        """Return gradients that wait for more micro-batches; sharded ones are those of all, and the first has them."""
        if not module.accumulated.is_open:
            return {}
        named = {name: param.grad for name, param in module.named_parameters() if param.grad is not None}
        gradients: dict[str, Tensor] = self._gradients or sharding.full_tensor(named)  # the former: not restored yet
        return None if sharding.is_sharded(module.policy) and module.global_rank > 0 else gradients


def _with_state(trainer: pl.Trainer) -> list[HasProcessState]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return [callback for callback in callbacks if isinstance(callback, HasProcessState)]
