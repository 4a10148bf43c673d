"""Model families: what of a policy differs between AffectGPT, HumanOmni and others, one file for each."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module

from affectgpt_r1.policy.families.base import Family

__all__ = ["FAMILIES", "Family"]

# By the name of the file, which is `model.family`: another family is another file here, and no list.
_MODULES = {info.name: import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
FAMILIES: Mapping[str, Family] = {name: module.FAMILY for name, module in _MODULES.items() if hasattr(module, "FAMILY")}
