"""Parameter groups and the learning-rate schedules."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from affectgpt_r1.errors import ConfigError

NEEDS_A_LENGTH = (
    "a learning rate that falls needs the run's length: set trainer.max_steps, trainer.max_epochs or "
    "optim.scheduler.total_steps, or keep the rate by optim.scheduler.min_lr_ratio=1.0"
)


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Return groups of what trains: matrices with weight decay; biases and norms without. None is empty."""
    # As in AffectGPT: only what has at least two dimensions decays.
    trainable = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    make: Callable[[Iterable[dict[str, Any]]], Optimizer],
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
) -> Optimizer:
    """Build ``optim.optimizer`` from :func:`parameter_groups`.

    Raises:
        ConfigError: The optimizer refuses a setting.
    """
    try:
        optimizer = make(parameter_groups(named_parameters, weight_decay))
    except ValueError as error:
        raise ConfigError(f"optim.optimizer: {error}; change that key, as in optim.optimizer.lr=2.0e-3") from error
    # Under mixed precision a fused step may unscale gradients itself, and Lightning then refuses to clip them.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


@dataclass(frozen=True)
class OptimizerFactory:
    """Build an optimizer and its schedule."""

    make_optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer]  # optim.optimizer; takes parameter groups
    make_scheduler: Callable[[Optimizer], LRScheduler]  # optim.scheduler; stepped after every optimizer step
    weight_decay: float  # of matrices

    def build_optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        """Return an optimizer of what trains."""
        return build_optimizer(self.make_optimizer, named_parameters, self.weight_decay)


def replay_settings(
    optimizer: Optimizer,
    make_scheduler: Callable[[Optimizer], LRScheduler],
    checkpoint: dict[str, Any],
) -> None:
    """Put the configured rates, decay and schedule into a checkpoint in place, as if they had held from the first step.

    Any schedule that depends on the number of steps alone can be replayed. ``optimizer`` is not stepped, and not used
    afterwards.
    """
    # The Trainer restores these settings over those that it was built with; moments and the number of steps stay.
    (stored,), (stored_schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    scheduler = make_scheduler(optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step\\(\\)` before `optimizer.step.*")
        for _ in range(stored_schedule["last_epoch"]):
            scheduler.step()
    groups = optimizer.state_dict()["param_groups"]
    stored["param_groups"] = [
        {**group, "params": old["params"]} for group, old in zip(groups, stored["param_groups"], strict=True)
    ]
    checkpoint["lr_schedulers"] = [scheduler.state_dict()]


def linear_schedule(
    optimizer: Optimizer,
    *,
    warmup_steps: int,
    total_steps: int,
    min_lr_ratio: float = 0.0,
    warmup_start_ratio: float | None = None,
) -> LambdaLR:
    """Rise linearly over ``warmup_steps``, then fall linearly to ``min_lr_ratio`` of the rate at ``total_steps``.

    AffectGPT's published schedule rises from a tenth of the rate (``warmup_start_ratio=0.1``) and then keeps it
    (``min_lr_ratio=1``): its cosine ends where it starts.

    Args:
        optimizer: Whose rates are scaled.
        warmup_steps: Optimizer steps until the full rate.
        total_steps: Optimizer steps of the run; a constant rate needs none, and takes -1.
        min_lr_ratio: Fraction of the rate at the end, and after it.
        warmup_start_ratio: Fraction of the rate at the first step; None is ``1 / (warmup_steps + 1)``.

    Raises:
        ConfigError: The rate is to fall and the run has no length.
    """
    return _schedule(optimizer, lambda progress: progress, warmup_steps, total_steps, min_lr_ratio, warmup_start_ratio)


def cosine_schedule(
    optimizer: Optimizer,
    *,
    warmup_steps: int,
    total_steps: int,
    min_lr_ratio: float = 0.0,
    warmup_start_ratio: float | None = None,
) -> LambdaLR:
    """Do as :func:`linear_schedule`, but fall by half a cosine."""

    def fallen(progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2

    return _schedule(optimizer, fallen, warmup_steps, total_steps, min_lr_ratio, warmup_start_ratio)


def _schedule(
    optimizer: Optimizer,
    fallen: Callable[[float], float],
    warmup_steps: int,
    total_steps: int,
    min_lr_ratio: float,
    start: float | None,
) -> LambdaLR:
    """``fallen`` maps progress after the warm-up to the fraction of the fall, both from 0 to 1."""
    if total_steps < 1 and min_lr_ratio < 1:  # the fall would be over at once: rate 0 from the end of the warm-up on
        raise ConfigError(f"optim.scheduler.total_steps={total_steps}: {NEEDS_A_LENGTH}")

    # Not transformers' get_scheduler: its warm-up is step / warmup_steps, so that the first step has the rate 0, which
    # differs from ours in each step of the warm-up, and linear and constant ones have no min_lr_ratio or start.
    def ratio(step: int) -> float:
        if step < warmup_steps and start is not None:
            return start + (1 - start) * step / warmup_steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        # lr_t / lr = 1 - (1 - min_lr_ratio) fallen(p), with p = (t - warmup_steps) / (total_steps - warmup_steps).
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 1.0 - (1.0 - min_lr_ratio) * fallen(progress)

    return LambdaLR(optimizer, ratio)
