"""Fully sharded training (FSDP2) whose checkpoints are those of every other strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer

from affectgpt_r1.distributed.sharding import distribute_like, full_state_dict, full_tensor


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 with checkpoints of full tensors in one file, which resume under any strategy of the same world size."""

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Let the Trainer restore optimizers."""
        return True

    def setup_environment(self) -> None:
        """Start the process group; tensor parallelism is not used."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        if self.lightning_module is None:  # before `fit`: ranks that encode clips together need the group only
            super(ModelParallelStrategy, self).setup_environment()
            self._setup_distributed()
        else:
            super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the full tensors of what trains, on every rank."""
        assert self.lightning_module is not None
        return full_state_dict(self.lightning_module)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state with full tensors, on every rank."""
        state: dict[str, Any] = full_tensor(optimizer.state_dict())
        return state

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file through the checkpoint plugin."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give each rank its shards; the module has checked that the checkpoint fits."""
        assert self.lightning_module is not None
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(distribute_like(checkpoint["state_dict"][name], parameter))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each rank its shards."""
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                number: {name: distribute_like(value, parameters[number]) for name, value in moments.items()}
                for number, moments in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})
