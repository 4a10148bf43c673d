"""Switching dropout off."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def disable_dropout(module: nn.Module) -> list[str]:
    """Set every dropout rate inside a module to 0, and return the names of those that were above 0.

    They are of modules, and of numbers, which transformers' attention layers keep.
    """
    names = []
    for name, part in module.named_modules():
        if isinstance(part, _DropoutNd) and part.p > 0:
            part.p = 0.0
            names.append(name)
        for attribute, rate in list(vars(part).items()):
            if "dropout" in attribute and isinstance(rate, float) and rate > 0:
                setattr(part, attribute, 0.0)
                names.append(f"{name}.{attribute}")
    return names
