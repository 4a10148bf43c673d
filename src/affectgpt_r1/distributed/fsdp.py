"""Fully sharded training (FSDP2) whose checkpoints are those of every other strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.optim import Optimizer

from affectgpt_r1.distributed import sharding
from affectgpt_r1.errors import ConfigError


class ShardedStrategy(ModelParallelStrategy):
    """Shard weights, gradients and optimizer states to all processes.

    A checkpoint is one file with full tensors of what trains, written and read through the Trainer's checkpoint
    plugin. It resumes under any strategy with as many processes.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def _policy(self) -> nn.Module:
        assert self.lightning_module is not None
        policy: nn.Module = self.lightning_module.policy  # type: ignore[assignment]
        return policy

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Say that the Trainer restores optimizers, as it does under other strategies."""
        return True

    def setup_environment(self) -> None:
        """Start the process group; no layer is split among processes.

        Before ``fit`` connects the module, the group is all: processes that encode clips together need no more.
        """
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        if self.lightning_module is None:
            super(ModelParallelStrategy, self).setup_environment()
            self._setup_distributed()
        else:
            super().setup_environment()

    def shard_policy(self, module: LightningModule) -> None:
        """Shard the weights of ``module.policy``; frozen encoders are small and stay full in each process.

        Raises:
            ConfigError: The stage trains weights outside the policy.
        """
        policy: Any = module.policy
        if sharding.is_sharded(policy):
            return
        if any(param.requires_grad for name, param in module.named_parameters() if not name.startswith("policy.")):
            stage = type(module.stage).__name__
            raise ConfigError(f"trainer=fsdp shards the policy's weights only; use trainer=ddp for {stage}")
        sharding.shard(
            policy,
            self.device_mesh["data_parallel"],
            methods=("logps_and_entropies", "per_token_logps"),
            ignored_params=policy.encoders.parameters() if policy.encoders.frozen else (),
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Unshard the weights for a whole step: sampling reads them for every token."""
        sharding.unshard(self._policy)

    def on_validation_start(self) -> None:
        """Unshard: processes may have unequally many batches, and none may wait for another in them."""
        sharding.unshard(self._policy)

    def on_validation_end(self) -> None:
        """Free the full weights."""
        sharding.reshard(self._policy)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return full tensors of what trains, in every process."""
        assert self.lightning_module is not None
        # A checkpoint of a validation is written before on_validation_end; accumulated gradients are read sharded.
        sharding.reshard(self._policy)
        return sharding.full_state_dict(self.lightning_module)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state with full tensors, in every process."""
        state: dict[str, Any] = sharding.full_tensor(optimizer.state_dict())
        return state

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file through the checkpoint plugin."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give each process its shard; the module has checked that the checkpoint fits."""
        assert self.lightning_module is not None
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(sharding.distribute_like(checkpoint["state_dict"][name], parameter))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each process its shard."""
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                number: {name: sharding.distribute_like(value, parameters[number]) for name, value in moments.items()}
                for number, moments in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})
