"""What a run's folder holds, and whether today's run may go on with it, is done already, or would destroy it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from affectgpt_r1.config import resolved
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.plain_settings import check_interpolations, read_yaml
from affectgpt_r1.reporting.provenance import command_line
from affectgpt_r1.resume import dotted
from affectgpt_r1.run_record import wall_time_of

log = logging.getLogger(__name__)

WITHOUT_EFFECT = (
    *("paths", "logger", "callbacks", "hydra", "sweep", "experiment_name", "ckpt_path", "overwrite", "evaluate_after"),
    *("num_threads", "data.num_workers", "data.eval_batch_size", "data.feature_store"),
    *("trainer.log_every_n_steps", "trainer.default_root_dir", "trainer.enable_model_summary"),
)
"""Keys that do not tell one run from another."""

PLACEHOLDERS = ("root", "outputs", "experiment", "run", "features")
"""Folders that may move between two starts of one run."""

OURS = {"${repository:}", "${run_folder:}", "${run_title:}"}
"""Resolvers that only name folders of this machine."""
START_KEYS = ("init_from", "towers_from")
CONFIG_FILE, OVERRIDES_FILE, START_FILE = ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/start.json"

MADE_BY_RUNS = (
    *("checkpoints", "completions", "csv", "test", ".hydra", "run.json", "unreadable_clips.csv"),
    *("nonfinite_step_*.jsonl", "lightning_logs"),
)
"""All that ``overwrite=true`` removes; a folder may hold something else as well."""

_SHOWN_KEYS = 3


class Found(NamedTuple):
    """What a run's folder holds.

    Attributes:
        state: ``new`` has nothing to lose, ``unfinished`` has a checkpoint to go on from, ``finished`` has ended.
        differing: Where today's run differs from the one that is there: ``key=value, here value``.
    """

    state: Literal["new", "unfinished", "finished"]
    differing: tuple[str, ...] = ()


def look_up(config: DictConfig) -> Found:
    """Compare the run that is in ``paths.run`` with today's configuration. Nothing is written.

    Args:
        config: The composed ``configs/train.yaml``.
    """
    folder = Path(config.paths.run)
    ended = folder / "run.json"
    if config.overwrite:  # whatever is there; another process of this run may be removing it
        return Found("new")
    if not ended.is_file() and not any((folder / "checkpoints").glob("*.ckpt")):
        return Found("new")
    differing = tuple(_differences(config))
    if ended.is_file() and _read_record(folder).get("config_hash", config_hash(config)) == config_hash(config):
        return Found("finished", differing)
    if differing and ended.is_file():
        return Found("finished", differing)
    return Found("unfinished", differing)


def check_may_train(config: DictConfig, found: Found) -> None:
    """Refuse a run that would destroy another one.

    Args:
        config: The composed ``configs/train.yaml``.
        found: What its folder holds.

    Raises:
        ConfigError: Another run is there; or the keys contradict each other.
        CheckpointError: An unfinished run is there that has no last checkpoint.
    """
    folder = Path(config.paths.run)
    resumes_here = config.ckpt_path is not None and _is_within(config.ckpt_path, folder)
    for key in (*START_KEYS, "match_wall_time") if config.overwrite else ():
        if config[key] is not None and _is_within(config[key], folder):
            raise ConfigError(f"overwrite=true would remove {key}={config[key]}: give paths.run=FOLDER instead")
    if config.overwrite and resumes_here:
        raise ConfigError(f"overwrite=true would remove the checkpoint of ckpt_path={config.ckpt_path}: give only one")
    if found.state == "new" or config.overwrite or resumes_here or _is_debug_run(folder, config):
        return
    what = "a finished run" if found.state == "finished" else "an unfinished run"
    other = "paths.run=FOLDER"  # under another experiment_name= a second stage would not find the first
    if config.ckpt_path is not None:
        raise ConfigError(
            f"{folder} holds {what}, which ckpt_path={config.ckpt_path} would replace: give {other} to begin "
            "elsewhere, ckpt_path=last to continue the run that is there, or overwrite=true to replace it"
        )
    if found.differing:
        shown = "; ".join(found.differing[:_SHOWN_KEYS])
        more = len(found.differing) - _SHOWN_KEYS
        raise ConfigError(
            f"{folder} holds {what} with {shown}{f'; and {more} keys more' if more > 0 else ''}. Give {other} to keep "
            "both, or overwrite=true to replace it"
        )
    if found.state == "unfinished" and not (folder / "checkpoints" / "last.ckpt").is_file():
        raise CheckpointError(
            f"{folder} holds an unfinished run without checkpoints/last.ckpt, so it cannot continue; give {other} to "
            "keep what is there, or overwrite=true to begin again"
        )
    if found.state == "finished" and config.evaluate_after and not (folder / "test" / "answers.jsonl").is_file():
        raise ConfigError(
            f"{folder} holds this run, finished without evaluate_after=true; give ckpt_path=last as well to answer the "
            "test clips with its weights"
        )


def began_here(config: DictConfig, found: Found) -> bool:
    """Whether the run that is there was begun by this command, from the same checkpoint of another run."""
    folder = Path(config.paths.run)
    if config.ckpt_path is None or _is_within(config.ckpt_path, folder) or found.state == "new" or found.differing:
        return False
    return bool(read_yaml(folder / CONFIG_FILE).get("ckpt_path") == config.ckpt_path)


def recorded_metrics(folder: Path) -> dict[str, float]:
    """What a finished run returned: its last metrics and ``best``, NaN where there was none."""
    record = _read_record(folder)
    metrics = {**record.get("metrics", {}), "best": record.get("best")}
    return {name: float("nan") if value is None else float(value) for name, value in metrics.items()}


def begin(config: DictConfig) -> None:
    """Write down today's configuration, after all was checked; a run that begins again loses what it left before.

    Args:
        config: The composed ``configs/train.yaml``; ``ckpt_path`` says whether it begins or continues.
    """
    folder = Path(config.paths.run)
    is_ours = any((folder / name).is_file() for name in (START_FILE, "run.json")) or look_up(config).state != "new"
    if is_ours and (config.ckpt_path is None or not _is_within(config.ckpt_path, folder)):
        for path in (path for pattern in MADE_BY_RUNS for path in folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    _write(folder / CONFIG_FILE, OmegaConf.to_yaml(config))
    _write(folder / OVERRIDES_FILE, OmegaConf.to_yaml(OmegaConf.create(_overrides())))
    _write(folder / START_FILE, json.dumps(_start_digests(config), indent=2) + "\n")


def config_hash(config: DictConfig) -> str:
    """A digest of what :func:`look_up` compares."""
    return hashlib.sha256(json.dumps(_identity(config), sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Append this process's log, and the error that ends it, to ``<folder>/train.log``."""
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    root = logging.getLogger()

    def write(level: int, message: str) -> None:
        handler.handle(logging.LogRecord(__name__, level, __file__, 0, message, None, None))

    root.addHandler(handler)
    try:
        write(logging.INFO, f"Process {os.getpid()}: {command_line()}")
        yield
        write(logging.INFO, "Ended")
    except BaseException as error:
        write(logging.ERROR, f"Ended by {type(error).__name__}: {error}")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()


def _differences(config: DictConfig) -> Iterator[str]:
    folder = Path(config.paths.run)
    if not (folder / CONFIG_FILE).is_file():
        yield "a configuration that is not recorded"
        return
    try:
        tree = read_yaml(folder / CONFIG_FILE)
        own = set(re.findall(r"\$\{[^{}]*:[^{}]*\}", OmegaConf.to_yaml(config)))  # what today's run calls, it may call
        check_interpolations(tree, OURS | own, folder / CONFIG_FILE)
        there = _identity(OmegaConf.create(tree))
    except (CheckpointError, OmegaConfBaseException, ValueError, AssertionError):  # a stranger's, older, or damaged
        yield f"a configuration that cannot be read ({folder / CONFIG_FILE})"
        return
    here = _identity(config)
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            yield f"{key}={_plain(there.get(key))} (here {_plain(here.get(key))})"
    if (folder / START_FILE).is_file():
        digests = json.loads((folder / START_FILE).read_text(encoding="utf-8"))
        for key, digest in _start_digests(config).items():
            if here.get(key) == there.get(key) and None not in (digest, digests.get(key)) and digest != digests[key]:
                yield f"{key}={config[key]} (which has changed since)"


def _identity(config: DictConfig) -> dict[str, Any]:
    """What tells runs apart: the resolved value of each dotted key, with folders that may move as ``<outputs>``."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    kept = OmegaConf.create(plain)
    assert isinstance(kept, DictConfig)
    real = {name: str(Path(config.paths[name]).absolute()) for name in ("experiment", "outputs", "root")}
    for name in PLACEHOLDERS:
        kept.paths[name] = f"<{name}>"
    flat: dict[str, Any] = {}
    for key, value in dotted(resolved(kept)):
        if any(key == one or key.startswith(f"{one}.") for one in WITHOUT_EFFECT):
            continue
        if key in (*START_KEYS, "match_wall_time") and isinstance(value, str) and not value.startswith("<"):
            value = str(Path(value).absolute())
        for name, path in real.items():
            if isinstance(value, str) and value.startswith(f"{path}/"):
                value = f"<{name}>{value[len(path) :]}"
        flat[key] = value
    return flat


def _start_digests(config: DictConfig) -> dict[str, str | None]:
    """What the run starts from: SHA-256 of the checkpoints, which may be trained again, and the wall time to match."""
    digests: dict[str, str | None] = {"match_wall_time": None}
    if config.match_wall_time is not None and Path(config.match_wall_time).is_file():
        digests["match_wall_time"] = str(wall_time_of(config.match_wall_time))
    for key in START_KEYS:
        digests[key] = None
        if config[key] is not None and Path(config[key]).is_file():
            with Path(config[key]).open("rb") as file:
                digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _is_debug_run(folder: Path, config: DictConfig) -> bool:
    """Whether a debug run would replace an earlier debug run."""
    if not config.debugging or not (folder / CONFIG_FILE).is_file():
        return False
    return bool(read_yaml(folder / CONFIG_FILE).get("debugging", False))


def _is_within(path: str, folder: Path) -> bool:
    return path == "last" or Path(path).absolute().is_relative_to(folder.absolute())


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / 'run.json'}: this is not JSON ({error}); give overwrite=true") from error
    return record if isinstance(record, dict) else {}


def _write(path: Path, text: str) -> None:
    """Write a file at once, so that no other process reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
