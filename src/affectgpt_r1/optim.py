"""Parameter groups and the learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from affectgpt_r1.errors import ConfigError


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of what trains: matrices with weight decay; biases and norms without, as in AffectGPT.

    Args:
        named_parameters: Parameters by name; those without gradient are left out.
        weight_decay: Decay of the first group.
    """
    trainable = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]


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
        raise ConfigError(f"optim.optimizer: {error}; mend that key, as in optim.optimizer.lr=2.0e-3") from error
    # Under mixed precision a fused step may unscale gradients itself, and Lightning then refuses to clip them.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def linear_schedule(optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_share: float = 0.0) -> LambdaLR:
    """Rise linearly over ``warmup_steps``, then fall linearly to ``final_share`` of the rate at ``total_steps``.

    ``final_share=1`` is a constant rate, which AffectGPT's published schedule amounts to.

    Args:
        optimizer: Whose rates are scaled.
        warmup_steps: Optimizer steps until the full rate.
        total_steps: Optimizer steps of the run.
        final_share: Share of the rate at the end, and after it.
    """

    def share(step: int) -> float:
        return _warm(step, warmup_steps) or 1.0 - (1.0 - final_share) * _progress(step, warmup_steps, total_steps)

    return LambdaLR(optimizer, share)


def cosine_schedule(optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_share: float = 0.0) -> LambdaLR:
    """Rise linearly over ``warmup_steps``, then fall by half a cosine to ``final_share`` at ``total_steps``.

    Args:
        optimizer: Whose rates are scaled.
        warmup_steps: Optimizer steps until the full rate.
        total_steps: Optimizer steps of the run.
        final_share: Share of the rate at the end, and after it.
    """

    def share(step: int) -> float:
        fallen = (1.0 - math.cos(math.pi * _progress(step, warmup_steps, total_steps))) / 2
        return _warm(step, warmup_steps) or 1.0 - (1.0 - final_share) * fallen

    return LambdaLR(optimizer, share)


def _warm(step: int, warmup_steps: int) -> float:
    return (step + 1) / (warmup_steps + 1) if step < warmup_steps else 0.0


def _progress(step: int, warmup_steps: int, total_steps: int) -> float:
    return min(1.0, max(0, step - warmup_steps) / max(1, total_steps - warmup_steps))
