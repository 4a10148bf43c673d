"""The contents of a run's folder, and whether this run may continue it, is finished, or would destroy it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.overrides import given_overrides
from affectgpt_r1.config.renamed import renamed_keys
from affectgpt_r1.config.resume import dotted
from affectgpt_r1.config.run_record import read_record, wall_time_of
from affectgpt_r1.config.untrusted_config import check_interpolations, read_yaml
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.io.clean_text import PrintableFormatter
from affectgpt_r1.io.files import why_unwritable, write_text
from affectgpt_r1.tracking.provenance import command_line

log = logging.getLogger(__name__)

# Keys that do not tell one run from another
WITHOUT_EFFECT = (
    *("paths", "logger", "callbacks", "hydra", "sweep", "experiment_name", "ckpt_path", "overwrite", "evaluate_after"),
    *("num_threads", "data.num_workers", "data.eval_batch_size", "rollout"),
    *("data.feature_store", "data.manifests", "data.recheck"),
    *("trainer.log_every_n_steps", "trainer.default_root_dir", "trainer.enable_model_summary"),
)

# Folders that may move between two starts of one run
PLACEHOLDERS = ("root", "outputs", "experiment", "run", "features")

# Resolvers that only name folders of this machine; runs before 0.2 have ${repository:}
OURS = {
    "${working_directory:}",
    "${repository:}",
    "${run_folder:}",
    "${run_title:}",
    "${experiment_title:}",
    "${run_baseline:}",
    "${tokenizer_file:}",
}
START_KEYS = ("init_from", "encoders_from")
CONFIG_FILE, OVERRIDES_FILE, START_FILE = ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/start.json"

# All that `overwrite=true` removes, in this order: after a kill in between, what is left does not pass for a finished
# run. A folder may hold something else as well.
MADE_BY_RUNS = (
    *("run.json", "checkpoints", "completions", "csv", "test", "rollout", ".hydra", "unreadable_clips.csv"),
    *("nonfinite_step_*.jsonl", "lightning_logs", "mlflow_run_id"),
)

UNREADABLE = "ckpt_path=last continues by the settings in the checkpoint, and writes the file again"
CHANGED_SINCE = "(which has changed since .hydra/start.json was written)"

_SHOWN_KEYS = 3


class Found(NamedTuple):
    """The state of a run's folder.

    Attributes:
        state: ``new`` has nothing to lose, ``unfinished`` has a checkpoint to continue from, ``finished`` has ended.
        differing: Where this run differs from the one in the folder: ``key=value, here value``.
    """

    state: Literal["new", "unfinished", "finished"]
    differing: tuple[str, ...] = ()


def look_up(config: DictConfig) -> Found:
    """Compare the run in ``paths.run`` with the composed configuration. Nothing is written."""
    folder = Path(config.paths.run)
    ended = folder / "run.json"
    if config.overwrite:  # whatever is there; another process of this run may be removing it
        return Found("new")
    checkpoints = [path.name for path in (folder / "checkpoints").glob("*.ckpt")]
    if not ended.is_file() and not checkpoints:
        return Found("new")
    differing = tuple(_differences(config))
    if not ended.is_file() and not differing and "last.ckpt" not in checkpoints and _began_from(folder, config):
        return Found("new")  # what is there is a copy of the other run's best.ckpt
    if ended.is_file() and read_record(ended).get("config_hash", config_hash(config)) == config_hash(config):
        return Found("finished", differing)
    if differing and ended.is_file():
        return Found("finished", differing)
    return Found("unfinished", differing)


def is_outdated(found: Found) -> bool:
    """Return whether a run differs only in what it starts from, which was trained again since."""
    return bool(found.differing) and all(difference.endswith(CHANGED_SINCE) for difference in found.differing)


def check_may_train(config: DictConfig, found: Found) -> None:
    """Refuse a run that would destroy another one.

    Raises:
        ConfigError: Another run is in the folder; or the keys contradict each other.
        CheckpointError: The unfinished run in the folder has no last checkpoint.
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
    # The remedy is paths.run=: under another experiment_name= a second stage would not find the first.
    if config.ckpt_path is not None:
        raise ConfigError(
            f"{folder} holds {what}, which ckpt_path={config.ckpt_path} would replace: give paths.run=FOLDER to begin "
            "elsewhere, ckpt_path=last to continue the run that is there, or overwrite=true to replace it"
        )
    if found.differing:
        shown = "; ".join(found.differing[:_SHOWN_KEYS])
        more = len(found.differing) - _SHOWN_KEYS
        shown += f"; and {more} keys more" if more > 0 else ""
        raise ConfigError(
            f"{folder} holds {what} with {shown} in .hydra/config.yaml. Give paths.run=FOLDER to keep both, or "
            "overwrite=true to replace it"
        )
    if found.state == "unfinished" and not any(
        (folder / "checkpoints" / name).is_file() for name in ("last.ckpt", "best.ckpt")
    ):
        raise CheckpointError(
            f"{folder} holds an unfinished run without checkpoints/last.ckpt, so it cannot continue; give "
            "paths.run=FOLDER to keep what is there, or overwrite=true to begin again"
        )
    if found.state == "finished" and config.evaluate_after and not (folder / "test" / "answers.jsonl").is_file():
        raise ConfigError(
            f"{folder} holds this run, finished without evaluate_after=true; give ckpt_path=last as well to answer the "
            "test clips with its weights"
        )


def began_here(config: DictConfig, found: Found) -> bool:
    """Return whether the run in the folder was begun by this command, from the same checkpoint of another run."""
    return found.state != "new" and not found.differing and _began_from(Path(config.paths.run), config)


def recorded_metrics(folder: Path) -> dict[str, float]:
    """Return the last metrics and ``best`` of a finished run, NaN where there was none."""
    record = read_record(folder / "run.json")
    metrics = {**record.get("metrics", {}), "best": record.get("best")}
    return {name: float("nan") if value is None else float(value) for name, value in metrics.items()}


def begin(config: DictConfig) -> None:
    """Record the configuration, after all checks; a run that begins again loses what it left before."""
    folder = Path(config.paths.run)
    is_ours = any((folder / name).is_file() for name in (START_FILE, "run.json")) or look_up(config).state != "new"
    if is_ours and (config.ckpt_path is None or not _is_within(config.ckpt_path, folder)):
        for path in (path for pattern in MADE_BY_RUNS for path in folder.glob(pattern)):
            if path.is_dir():
                os.replace(path, gone := path.with_name(f"{path.name}.partial"))  # at once, whatever it holds
                shutil.rmtree(gone)
            else:
                path.unlink()
    write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(config))
    write_text(folder / OVERRIDES_FILE, OmegaConf.to_yaml(OmegaConf.create(given_overrides())))
    start = config.ckpt_path
    if start is not None and _is_within(start, folder):  # it continues
        start = _start_of(folder)
    write_text(folder / START_FILE, json.dumps({**_start_digests(config), "ckpt_path": start}, indent=2) + "\n")


def config_hash(config: DictConfig) -> str:
    """Digest what :func:`look_up` compares."""
    return hashlib.sha256(json.dumps(_identity(config), sort_keys=True, default=str).encode()).hexdigest()[:16]


class _LogFile(logging.FileHandler):
    """Reports once that it cannot be written; logging would print a traceback for every line."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say why, and let the run continue: its log is on the terminal as well."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            print(f"{self.baseFilename}: cannot be written: {why_unwritable(error)}", file=sys.stderr)

    def close(self) -> None:
        """Close, even where lines could not be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Append this process's log, and the error that ends it, to ``<folder>/train.log``."""
    handler = _LogFile(folder / "train.log", encoding="utf-8")
    handler.setFormatter(PrintableFormatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
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
        if old := next(renamed_keys(tree), None):
            yield f"keys of an earlier version, such as {old[0]}, now {old[1]}"
            return
        own = set(re.findall(r"\$\{[^{}]*:[^{}]*\}", OmegaConf.to_yaml(config)))  # what today's run calls, it may call
        check_interpolations(tree, OURS | own, folder / CONFIG_FILE)
        stored = _identity(OmegaConf.create(tree))
    except (CheckpointError, OmegaConfBaseException, LookupError, TypeError, ValueError, AssertionError):
        stored = {}  # a stranger's, older, or damaged
    if not stored:
        yield f"a configuration that cannot be read ({folder / CONFIG_FILE}); {UNREADABLE}"
        return
    current = _identity(config)
    for key in sorted(stored.keys() | current.keys()):
        if stored.get(key) != current.get(key):
            yield f"{key}={_plain(stored.get(key))} (here {_plain(current.get(key))})"
    if (folder / START_FILE).is_file():
        try:
            digests = dict(json.loads((folder / START_FILE).read_bytes()))
        except (ValueError, TypeError, RecursionError):
            yield f"a start that cannot be read ({folder / START_FILE}); {UNREADABLE}"
            return
        for key, digest in _start_digests(config).items():
            if (
                current.get(key) == stored.get(key)
                and None not in (digest, digests.get(key))
                and digest != digests[key]
            ):
                yield f"{key}={config[key]} {CHANGED_SINCE}"


def _identity(config: DictConfig) -> dict[str, Any]:
    """Return the resolved value of each key that tells runs apart, with folders that may move as ``<outputs>``."""
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
        if any(key == prefix or key.startswith(f"{prefix}.") for prefix in WITHOUT_EFFECT):
            continue
        if key in (*START_KEYS, "match_wall_time") and isinstance(value, str) and not value.startswith("<"):
            value = str(Path(value).absolute())
        for name, path in real.items():
            if isinstance(value, str) and value.startswith(f"{path}/"):
                value = f"<{name}>{value[len(path) :]}"
        flat[key] = value
    return flat


def _start_digests(config: DictConfig) -> dict[str, str | None]:
    """Return the SHA-256 of the checkpoints that the run starts from, and the wall time to match."""
    digests: dict[str, str | None] = {"match_wall_time": None}
    if config.match_wall_time is not None and Path(config.match_wall_time).is_file():
        digests["match_wall_time"] = str(wall_time_of(config.match_wall_time))
    for key in START_KEYS:
        digests[key] = None
        if config[key] is not None and Path(config[key]).is_file():
            with Path(config[key]).open("rb") as file:
                digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _start_of(folder: Path) -> str | None:
    """Return the checkpoint of another run that a run began from; None if there was none, or its record is damaged."""
    try:
        start = json.loads((folder / START_FILE).read_bytes())["ckpt_path"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return start if isinstance(start, str) else None


def _began_from(folder: Path, config: DictConfig) -> bool:
    """Return whether the run in the folder began from the checkpoint of another run that the command names."""
    start = config.ckpt_path
    return start is not None and not _is_within(start, folder) and _start_of(folder) == start


def _is_debug_run(folder: Path, config: DictConfig) -> bool:
    """Return whether a debug run would replace an earlier debug run."""
    if not config.debugging:
        return False
    try:
        return bool(read_yaml(folder / CONFIG_FILE).get("debugging", False))
    except (CheckpointError, AttributeError):  # missing or damaged
        return False


def _is_within(path: str, folder: Path) -> bool:
    return path == "last" or Path(path).absolute().is_relative_to(folder.absolute())


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
