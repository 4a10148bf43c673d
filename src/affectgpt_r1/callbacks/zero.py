"""ZeRO stage 1 by DeepSpeed, whose checkpoints are those of every other strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from affectgpt_r1.functional.collective import average_gradients, gather_over_processes, own_rows

STEPS = "step"
"""The one entry of torch's optimizer states that does not belong to an element of a weight."""


class ZeroStrategy(DeepSpeedStrategy):
    """Deals the optimizer's states to all processes; each has all weights and gradients (Rajbhandari et al. 2020).

    DeepSpeed keeps the shares and steps them. All else is as under DDP: gradients accumulate in each process, and are
    averaged before the step; weights stay in float32 under ``bf16-mixed``. Stage 2 averages them during the backward
    pass, in its order, which differs between processes where one's batch leaves out weights that another's uses. A
    weight that no process used has a gradient of zeros here, so that its moments decay. Shares are stepped flat, so the
    optimizer must be one that treats every element alike, as SGD and AdamW do.

    A checkpoint is one file with whole tensors of what trains, written and read through the Trainer's checkpoint
    plugin. It resumes under any strategy with as many processes.
    """

    _engine: Any
    _zero: Any

    def __init__(self) -> None:
        super().__init__(
            config={
                "train_micro_batch_size_per_gpu": 1,  # only for DeepSpeed's count of samples, which nobody reads
                "gradient_accumulation_steps": 1,  # that it sees
                "zero_allow_untested_optimizer": True,
                "zero_optimization": {"stage": 1, "contiguous_gradients": False, "overlap_comm": False},
            }
        )

    @property
    def precision_plugin(self) -> Precision:
        """Float32, or autocast around float32 weights."""
        return self._precision_plugin or Precision()

    @precision_plugin.setter
    def precision_plugin(self, chosen: Precision | None) -> None:
        """Put autocast in the place of DeepSpeed's own mixed precision, which casts the weights themselves.

        Raises:
            MisconfigurationException: It is another precision.
        """
        precision = "32-true" if chosen is None else chosen.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise MisconfigurationException(f"trainer=deepspeed trains in bf16-mixed or 32-true, not in {precision}")
        device = "cuda" if isinstance(self.accelerator, CUDAAccelerator) else "cpu"
        self._precision_plugin = MixedPrecision("bf16-mixed", device) if precision == "bf16-mixed" else None

    @property
    def handles_gradient_accumulation(self) -> bool:
        """The Trainer does, and steps at the end of an epoch."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The Trainer restores optimizers, as it does under other strategies."""
        return True

    @property
    def deepspeed_engine(self) -> Any:
        """What steps; the model is called without it."""
        return self._engine

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable[[], Any], model: Module | None = None, **options: Any
    ) -> Any:
        """Average the gradients, and let each process step its share."""
        assert self.lightning_module is not None
        result = closure()
        trained = [one for one in self.lightning_module.parameters() if one.requires_grad]
        average_gradients(trained)
        self.precision_plugin._after_closure(self.lightning_module, optimizer)
        self._zero.overlapping_partition_gradients_reduce_epilogue()  # takes this process's share of them
        self._engine.step()
        return result

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write the file through the checkpoint plugin."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file through the checkpoint plugin."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fill the weights, and this process's share of those that are stepped."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)
        self._zero.refresh_fp32_params()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state as it is under other strategies, with whole tensors, in every process."""
        own = self._zero.optimizer.state_dict()
        states: list[dict[str, Tensor]] = []
        groups: list[dict[str, Any]] = []
        for number, group in enumerate(own["param_groups"]):
            flat, weights = self._zero.bit16_groups_flat[number], self._zero.bit16_groups[number]
            wholes = {name: _whole(name, value) for name, value in own["state"].get(number, {}).items()}
            groups.append({**group, "params": list(range(len(states), len(states) + len(weights)))})
            for parameter in weights:
                parts = {name: _part(name, value, parameter, flat) for name, value in wholes.items()}
                states.append({name: value.clone() for name, value in parts.items()})
        return {"state": {number: state for number, state in enumerate(states) if state}, "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each process its share; a weight that had no moments yet gets zeros."""
        (stored,) = checkpoint["optimizer_states"]
        states: dict[int, dict[str, Tensor]] = {}
        for number, group in enumerate(stored["param_groups"]):
            flat, weights = self._zero.bit16_groups_flat[number], self._zero.bit16_groups[number]
            wholes: dict[str, Tensor] = {}
            for key, parameter in zip(group["params"], weights, strict=True):
                for name, value in stored["state"].get(key, {}).items():
                    whole = wholes.setdefault(name, value.clone() if name == STEPS else torch.zeros_like(flat))
                    _part(name, whole, parameter, flat).copy_(value)
            size = len(flat) // self.world_size
            states[number] = {
                name: one if name == STEPS else own_rows(one, size).clone() for name, one in wholes.items()
            }
        groups = [{**group, "params": [number]} for number, group in enumerate(stored["param_groups"])]
        self._zero.optimizer.load_state_dict({"state": states, "param_groups": groups})

    def _initialize_deepspeed_train(self, model: Module) -> None:
        """Call the model as it is: the engine's own calls would average gradients after every backward pass."""
        super()._initialize_deepspeed_train(model)
        self._engine = self.model
        self._zero = self._engine.optimizer
        self.model = model
        self._zero.set_gradient_accumulation_boundary(True)

    def _format_batch_size_and_grad_accum_config(self) -> None:
        assert self.lightning_module is not None
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = self.lightning_module.trainer.gradient_clip_val or 0.0
        self.config["bf16"] = {"enabled": False}  # autocast instead


def _whole(name: str, share: Tensor) -> Tensor:
    """An entry of the optimizer's state for all elements of a group."""
    return share if name == STEPS else gather_over_processes(share)


def _part(name: str, whole: Tensor, parameter: Tensor, flat: Tensor) -> Tensor:
    """A parameter's part of such an entry: what stands where it does in the group's flat weights."""
    if name == STEPS:
        return whole
    first = parameter.storage_offset() - flat.storage_offset()
    return whole[first : first + parameter.numel()].view(parameter.shape)
