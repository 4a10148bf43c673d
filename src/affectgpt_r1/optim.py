"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


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
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 1.0 - (1.0 - final_share) * progress

    return LambdaLR(optimizer, share)
