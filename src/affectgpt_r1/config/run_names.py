"""Name of a run's folder: the stage, and what the command line changes of its experiment."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.keys import key_of

# Between stage and changes. Not Hydra's `,` and `=`: a path that holds them must be quoted in `init_from=`.
SEPARATOR = "+"

LONGEST = 120  # characters of a folder's name; a longer one is cut and ends in a hash

HASH_CHARACTERS = 8

TOKENIZER = "tokenizer/tokenizer.json"  # below a data folder
RENDERED_TOKENIZER = f"data/synthetic/{TOKENIZER}"  # below paths.root

PLACES = ("paths", "logger", "callbacks", "hydra", "rollout")  # groups that say where a run is kept, shown and sampled

# Keys that say how a run is started and on what machine; a second stage should find the first one all the same
NOT_IN_NAMES = (
    *("experiment", "experiment_name", "stage", "stage.name", "debug", "ckpt_path", "overwrite", "evaluate_after"),
    *("num_threads", "data.num_workers", "data.eval_batch_size", "trainer.log_every_n_steps"),
    *("trainer", "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy"),
)

# Keys that a sweep may vary without a part of its own in the folder's name
SHOWN_BY_PATHS = (
    *("experiment", "experiment_name", "stage", "ckpt_path", "overwrite", "logger", "hydra"),
    *("paths.root", "paths.outputs", "paths.experiment", "paths.run"),
)

CHECKPOINT_KEYS = ("init_from", "encoders_from", "match_wall_time", "systems")


def run_folder(*, _root_: DictConfig) -> str:
    """Return the folder of a run or of an evaluation: the value of ``paths.run``.

    A training run has ``<experiment>/<stage>``, followed by what the command line changes, or in a sweep by what it
    varies; with ``experiment_name=`` on the command line nothing follows. An evaluation writes into the experiment's
    folder, or into one of its own below that if it differs from the plain one. OmegaConf passes ``_root_``.
    """
    experiment, stage = Path(_root_.paths.experiment), str(_root_.stage.name)
    changes = changed_keys(_root_)
    if not changes:
        return str(experiment if stage == "evaluate" else experiment / stage)
    return str(experiment / run_name(stage, changes))


def tokenizer_file(*, _root_: DictConfig) -> str:
    """Return the data folder's own tokenizer; where it has none, that of the synthetic clips, if it is there."""
    own, rendered = Path(_root_.paths.data) / TOKENIZER, Path(_root_.paths.root) / RENDERED_TOKENIZER
    is_made_here = str(_root_.stage.name) == "render"
    return str(own if is_made_here or own.exists() or not rendered.exists() else rendered)


def run_title(*, _root_: DictConfig) -> str:
    """Return the run's name in MLflow: that of its folder, and the seed."""
    folder = Path(_root_.paths.run)
    name = str(_root_.stage.name) if folder == Path(_root_.paths.experiment) else folder.name
    return f"{name}-seed{_root_.seed}"


def experiment_title(*, _root_: DictConfig) -> str:
    """Return the run's MLflow experiment: ``experiment_name`` without the seed, so that one holds all seeds.

    A sweep's own name stays as it is: its trials have several seeds, and its parent run has none.
    """
    name = str(_root_.experiment_name)
    swept = _root_.get("sweep") is not None and _root_.sweep.name is not None
    return name if swept else name.removesuffix(f"-seed{_root_.seed}") or name


def run_baseline(*, _root_: DictConfig) -> str:
    """Return the run that a run starts from, below ``paths.outputs`` where it is; empty where it starts from none."""
    if _root_.init_from is None:
        return ""
    run, outputs = Path(_root_.init_from).absolute(), Path(_root_.paths.outputs).absolute()
    run = run.parents[1] if run.parent.name == "checkpoints" else run
    return str(run.relative_to(outputs) if run.is_relative_to(outputs) else run)


def run_name(stage: str, changes: Mapping[str, str]) -> str:
    """Return a folder name that Hydra reads unquoted and that a change of any value changes.

    >>> run_name("grpo", {"stage.beta": "0.04", "penalty": "ratio"})
    'grpo+penalty-ratio+stage.beta-0.04'
    >>> run_name("grpo", {"data.modalities": "[video,text]"})
    'grpo+data.modalities-video_text-cc182e58'
    """
    ordered = sorted(changes.items())
    readable = [re.sub(r"[^\w.-]+", "_", value, flags=re.ASCII).strip("_") for _, value in ordered]
    parts = [f"{key.replace('/', '.')}-{text}" for (key, _), text in zip(ordered, readable, strict=True)]
    name = SEPARATOR.join((stage, *parts))
    if len(name) <= LONGEST and readable == [value for _, value in ordered]:
        return name
    digest = hashlib.sha256(repr(ordered).encode()).hexdigest()[:HASH_CHARACTERS]
    return f"{name[: LONGEST - HASH_CHARACTERS - 1]}-{digest}"


def changed_keys(config: DictConfig) -> dict[str, str]:
    """Return the overrides that tell this run from others of its experiment and stage; none outside Hydra."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    given = {key_of(override): override.partition("=")[2].strip("'\"") for override in hydra.overrides.task}
    values = {key: _readable_path(key, value, config) for key, value in given.items() if not _is_shown(key, config)}
    own = {key: value for key, value in values.items() if not _is_one_of(key, (*PLACES, *NOT_IN_NAMES))}
    if config.stage.name == "evaluate":
        return {key: value for key, value in own.items() if key != f"systems.{value}"}
    if hydra.mode == RunMode.MULTIRUN:
        swept = _swept_keys(str(Path(hydra.sweep.dir) / "multirun.yaml"))
        if swept is not None:
            return {key: values[key] for key in values.keys() & swept if not _is_one_of(key, SHOWN_BY_PATHS)}
    elif "experiment_name" in given:
        return {}
    return own


def _is_one_of(key: str, listed: tuple[str, ...]) -> bool:
    """Return whether a key is listed, or is below a listed group; ``trainer`` alone is the choice of a file."""
    return key in listed or any(
        key.startswith(f"{group}.") for group in (*PLACES, "trainer.strategy") if group in listed
    )


def _is_shown(key: str, config: DictConfig) -> bool:
    """Return whether the experiment's name shows a key, as ``demo-seed${seed}`` shows ``seed``."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    named = re.findall(r"\$\{([\w.]+)\}", str(plain["experiment_name"]))
    return any(name == key or name.startswith(f"{key}.") for name in named)


def _readable_path(key: str, value: str, config: DictConfig) -> str:
    """Name a checkpoint or record below the experiment by its run's folder, another by its full path."""
    if key.partition(".")[0] not in CHECKPOINT_KEYS or value in ("", "null"):
        return value
    path, experiment = Path(value).absolute(), Path(config.paths.experiment).absolute()
    if not path.is_relative_to(experiment):
        return str(path)
    inner = path.relative_to(experiment).as_posix()
    return inner.removesuffix("/run.json").removesuffix("/checkpoints/best.ckpt")


@cache
def _swept_keys(multirun: str) -> frozenset[str] | None:
    """Return the keys that a multirun varies, by the file of Hydra's sweeper; None if another sweeper wrote none."""
    if not Path(multirun).is_file():
        return None
    written: Any = OmegaConf.load(multirun)
    overrides = OverridesParser.create().parse_overrides(list(OmegaConf.select(written, "hydra.overrides.task") or ()))
    keys = {key_of(str(override.input_line)) for override in overrides if override.is_sweep_override()}
    return frozenset(keys.union(OmegaConf.select(written, "hydra.sweeper.params") or ()))
