"""Which classes and functions a configuration may name as ``_target_``: exact names by group, nothing else.

Whatever is named is called with the arguments next to it. Hydra's own list of forbidden names has gaps, so this is a
list of allowed names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from affectgpt_r1.config.keys import config_items
from affectgpt_r1.config.renamed import TARGETS
from affectgpt_r1.errors import ConfigError

# What users may name of libraries besides what `configs/` names.
LIBRARY_TARGETS: Mapping[str, tuple[str, ...]] = {
    "callbacks": tuple(
        f"lightning.pytorch.callbacks.{name}"
        for name in (
            *("DeviceStatsMonitor", "EMAWeightAveraging", "EarlyStopping", "GradientAccumulationScheduler"),
            *("LearningRateMonitor", "ModelCheckpoint", "ModelPruning", "ModelSummary", "OnExceptionCheckpoint"),
            *("RichModelSummary", "RichProgressBar", "SpikeDetection", "StochasticWeightAveraging", "TQDMProgressBar"),
            *("ThroughputMonitor", "Timer", "WeightAveraging"),
        )
    ),
    "logger": tuple(
        f"lightning.pytorch.loggers.{name}"
        for name in ("CSVLogger", "CometLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger")
    ),
    "optim": (
        *(
            f"torch.optim.{name}"
            for name in (
                *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam"),
                *("RAdam", "RMSprop", "Rprop", "SGD"),
            )
        ),
        *(
            f"torch.optim.lr_scheduler.{name}"
            for name in (
                *("ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR"),
                *("LinearLR", "MultiStepLR", "OneCycleLR", "PolynomialLR", "StepLR"),
            )
        ),
    ),
    "trainer": (
        *(f"lightning.pytorch.strategies.{name}" for name in ("DDPStrategy", "FSDPStrategy", "ModelParallelStrategy")),
        "lightning.pytorch.strategies.SingleDeviceStrategy",
        *(
            f"lightning.pytorch.profilers.{name}"
            for name in ("AdvancedProfiler", "PassThroughProfiler", "PyTorchProfiler", "SimpleProfiler")
        ),
    ),
}

# Groups whose objects are arguments of another group's
PARTS: Mapping[str, tuple[str, ...]] = {"stage": ("reward", "judge"), "reward": ("judge",)}


@cache
def allowed_targets(group: str) -> frozenset[str]:
    """Return the targets of a group: those that a file of ``configs/`` names, and :data:`LIBRARY_TARGETS`.

    A class of the user's own is allowed by a file of ``configs/`` that names it.
    """
    named = {
        str(value)
        for key, value, _ in config_items()
        if key.startswith(f"{group}.") and key.endswith("._target_")  # experiments change keys of other groups
    }
    parts = (allowed_targets(part) for part in PARTS.get(group, ()))
    return frozenset(named.union(LIBRARY_TARGETS.get(group, ()), *parts))


def check_targets(tree: Any, group: str) -> None:
    """Refuse a part of a configuration, plain dicts and lists, that names anything but its group's targets.

    Nothing is imported.

    Raises:
        ConfigError: Names the key, the target and its new name or the nearest allowed one.
    """
    for key, target in _targets(tree, group):
        allowed = allowed_targets(group)
        if target not in allowed:
            if target in TARGETS:
                raise ConfigError(f"{key}._target_: {target} was renamed: it is {TARGETS[target]} now")
            matches = difflib.get_close_matches(target, allowed, n=1, cutoff=0.6)
            nearest = f"the nearest of {group} is {matches[0]}; " if matches else ""
            raise ConfigError(
                f"{key}._target_: {target[:200]} is not allowed: {nearest}a class of your own must be named in a file "
                f"below configs/{group}/"
            )


def _targets(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield key, str(tree["_target_"])
        for name, value in tree.items():
            yield from _targets(value, f"{key}.{name}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from _targets(value, f"{key}[{number}]")
