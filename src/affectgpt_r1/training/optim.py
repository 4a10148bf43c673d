"""Parameter groups and the learning-rate schedules."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
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
    """Groups of what trains: matrices with weight decay; biases and norms without, as in AffectGPT. None is empty.

    Args:
        named_parameters: Parameters by name; those without gradient are left out.
        weight_decay: Decay of the matrices.
    """
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
    """The optimizer of :func:`parameter_groups`.

    Args:
        make: ``optim.optimizer``; takes the groups.
        named_parameters: See :func:`parameter_groups`.
        weight_decay: See :func:`parameter_groups`.

    Raises:
        ConfigError: The optimizer refuses a setting.
    """
    if not weight_decay >= 0:
        raise ConfigError(f"optim.weight_decay={weight_decay} would let weights grow; set 0 or more")
    try:
        optimizer = make(parameter_groups(named_parameters, weight_decay))
    except ValueError as error:
        raise ConfigError(f"optim.optimizer: {error}; change that key, as in optim.optimizer.lr=2.0e-3") from error
    # Under mixed precision a fused step may unscale gradients itself, and Lightning then refuses to clip them.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def replay_settings(
    optimizer: Optimizer,
    make_scheduler: Callable[[Optimizer], LRScheduler],
    checkpoint: dict[str, Any],
) -> None:
    """Put today's rates, decay and schedule into a checkpoint's states, as if they had held from the first step.

    What a Trainer restores from a checkpoint wins over what it was built with. So the states' settings are replaced
    before it restores them; moments and the number of steps stay. Any schedule that depends on the number of steps
    alone can be replayed.

    Args:
        optimizer: Built as today's configuration says, not stepped; it is thrown away.
        make_scheduler: Makes today's schedule.
        checkpoint: Its ``optimizer_states`` and ``lr_schedulers`` are changed in place.
    """
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
        min_lr_ratio: Share of the rate at the end, and after it; 0 to 1.
        warmup_start_ratio: Share of the rate at the first step; None starts one of ``warmup_steps + 1`` rises above 0.

    Raises:
        ConfigError: A value is out of range, or the rate is to fall and the run has no length.
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
    """:func:`linear_schedule` with a fall by half a cosine."""

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
    """``fallen`` says how much of the fall is done at a share of the steps after the warmup."""
    if warmup_steps < 0:
        raise ConfigError(f"optim.scheduler.warmup_steps={warmup_steps}: give 0 or more")
    if not 0 <= min_lr_ratio <= 1:
        raise ConfigError(f"optim.scheduler.min_lr_ratio={min_lr_ratio}: give a share of the rate, from 0 to 1")
    if total_steps < 1 and min_lr_ratio < 1:  # the fall would be over at once: rate 0 from the end of the warm-up on
        raise ConfigError(f"optim.scheduler.total_steps={total_steps}: {NEEDS_A_LENGTH}")
    if start is not None and not 0 <= start <= 1:
        raise ConfigError(f"optim.scheduler.warmup_start_ratio={start}: give a share of the rate from 0 to 1, or null")

    def share(step: int) -> float:
        if step < warmup_steps and start is not None:
            return start + (1 - start) * step / warmup_steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 1.0 - (1.0 - min_lr_ratio) * fallen(progress)

    return LambdaLR(optimizer, share)
