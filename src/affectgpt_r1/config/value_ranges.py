"""The range of each number in ``configs/`` whose owner is built too late, or takes any value, to refuse a wrong one.

Numbers of GRPO, of sampling, of the rewards and of the judge are checked where they are read, before training as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.errors import ConfigError


class Range(NamedTuple):
    """Which numbers a key takes; NaN is in none."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("above 0, and finite", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Range("0 or more, and finite", lambda value: 0 <= value < math.inf)
COUNT = Range("an integer of at least 1", lambda value: 1 <= value < math.inf and value == int(value))
COUNT_OR_0 = Range("an integer, 0 or more", lambda value: 0 <= value < math.inf and value == int(value))
LIMIT = Range("an integer of at least 1, or -1 for no limit", lambda value: COUNT.holds(value) or value == -1)
STEPS = Range("an integer number of steps, or -1 for no limit", lambda value: COUNT_OR_0.holds(value) or value == -1)
FRACTION = Range("between 0 and 1", lambda value: 0 <= value <= 1)
BELOW_1 = Range("at least 0 and below 1", lambda value: 0 <= value < 1)
FINITE = Range("finite", math.isfinite)

# Ranges by dotted key; `*` is any name. Null, and words such as a time, are left to who reads them.
RANGES: Mapping[str, Range] = {
    "optim.optimizer.lr": NOT_NEGATIVE,
    "optim.optimizer.eps": NOT_NEGATIVE,
    "optim.optimizer.betas.*": BELOW_1,
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.scheduler.warmup_steps": COUNT_OR_0,
    "optim.scheduler.total_steps": STEPS,
    "optim.scheduler.min_lr_ratio": FRACTION,
    "optim.scheduler.warmup_start_ratio": FRACTION,
    "trainer.max_steps": Range(f"{LIMIT.words} (train=false trains nothing)", LIMIT.holds),
    "trainer.max_epochs": LIMIT,
    "trainer.val_check_interval": POSITIVE,
    "trainer.check_val_every_n_epoch": COUNT,
    "trainer.gradient_clip_val": NOT_NEGATIVE,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.log_every_n_steps": COUNT_OR_0,
    "data.num_frames": COUNT,
    "data.image_size": COUNT,
    "data.num_windows": COUNT,
    "data.window_seconds": POSITIVE,
    "data.batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "data.num_workers": COUNT_OR_0,
    "data.subset": COUNT,
    "data.modality_dropout": BELOW_1,
    "data.max_unreadable_fraction": FRACTION,
    "data.val_fraction": BELOW_1,
    "data.valence_range.*": FINITE,
    "prompt.max_completion_length": COUNT,
    "model.lora.r": COUNT,
    "model.lora.alpha": POSITIVE,
    "model.lora.dropout": BELOW_1,
    "model.fusion_hidden_size": COUNT,
    "stage.log_mel_weight": NOT_NEGATIVE,
    "callbacks.progress.every_n_steps": COUNT,
    "callbacks.completions.every_n_steps": COUNT,
    "callbacks.completions.console_rows": COUNT_OR_0,
    "callbacks.last_checkpoint.every_n_steps": COUNT,
    "callbacks.unreadable_clips.max_fraction": FRACTION,
    "callbacks.unreadable_clips.judge_after": COUNT_OR_0,
    "callbacks.reward_hacking.window": Range("an integer of at least 3", lambda value: value in range(3, 10**6)),
    "callbacks.reward_hacking.min_t": NOT_NEGATIVE,
    "callbacks.reward_hacking.min_drop": FINITE,
}


def check_ranges(config: DictConfig) -> None:
    """Refuse numbers of a composed configuration that are out of range.

    Raises:
        ConfigError: Names every such key, its value and its range.
    """
    faults = []
    for key, value in _numbers(OmegaConf.to_container(config, resolve=False), config):
        allowed = next((allowed for pattern, allowed in RANGES.items() if fnmatchcase(key, pattern)), None)
        if allowed is not None and not allowed.holds(value):
            faults.append(f"{key}={value}: give a number that is {allowed.words}")
    if faults:
        raise ConfigError("; ".join(faults))


def _numbers(tree: Any, config: DictConfig, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield numbers by dotted key; an interpolation is resolved only where a range is known for its key."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        key = f"{prefix}{name}"
        if isinstance(value, Mapping | list):
            yield from _numbers(value, config, f"{key}.")
            continue
        if isinstance(value, str) and "${" in value and key in RANGES:
            value = OmegaConf.select(config, key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value
