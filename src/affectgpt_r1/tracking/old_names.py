"""Names under which earlier versions logged, and what they are called now.

MLflow keeps metrics and params under the names that they were logged by, so whatever reads runs asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

# Endings of names, for a prefix says of which clips a metric is: train/, val/, test/, test/iemocap/.
METRICS = {
    "unmapped_share": "unmapped_rate",
    "unparsed_share": "unparsed_rate",
    "clusters_named_share": "clusters_named_fraction",
    "hacking/spray3_reward": "hacking/constant3_reward",
    "hacking/spray5_reward": "hacking/constant5_reward",
    "groups/skipped": "groups/filtered",
    "train/step_time": "system/time/step",
    "train/memory/peak_mib": "system/peak_memory_mib",
    "data/unreadable_clips": "train/unreadable_clips",
}
# Beginnings of dotted keys, for a section may have been renamed.
PARAMS = {
    "callbacks.unreadable_clips.max_share": "callbacks.unreadable_clips.max_fraction",
    "data.max_unreadable_share": "data.max_unreadable_fraction",
    "data.validation_share": "data.val_fraction",
    "model.audio_tower": "model.audio_encoder",
    "model.share_prompt": "model.share_prefix",
    "model.video_tower": "model.video_encoder",
    "optim.scheduler.final_share": "optim.scheduler.min_lr_ratio",
    "paths.towers": "paths.encoders",
    "prompt.thinks": "prompt.enable_thinking",
    "towers_from": "encoders_from",
}
TAG_VALUES = {("affectgpt.kind", "cell"): "trial", ("stage", "towers"): "pretrain_encoders"}
ARTIFACTS = {"trials.json": "cells.json"}  # current name: old name


def current_metric(name: str) -> str:
    """Return the current name of a metric.

    >>> current_metric("val/answers/unmapped_share"), current_metric("val/f1")
    ('val/answers/unmapped_rate', 'val/f1')
    """
    if name.removeprefix("train/").startswith("time/"):
        name = f"system/{name.removeprefix('train/')}".replace("time/towers", "time/encoders")
    for old, new in METRICS.items():
        if name == old or name.endswith(f"/{old}"):
            return name.removesuffix(old) + new
    return name


def current_param(name: str) -> str:
    """Return the current dotted key of a param."""
    for old, new in PARAMS.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def current_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with their current values."""
    return {name: TAG_VALUES.get((name, value), value) for name, value in tags.items()}


def renamed(values: Mapping[str, Value], current: Callable[[str], str]) -> dict[str, Value]:
    """Rename the keys of ``values``; a value that is there under its current name counts, not the old one.

    >>> renamed({"unmapped_rate": 0.1, "unmapped_share": 0.2, "f1": 0.5}, current_metric)
    {'unmapped_rate': 0.1, 'f1': 0.5}
    """
    return {current(key): value for key, value in values.items() if current(key) == key or current(key) not in values}
