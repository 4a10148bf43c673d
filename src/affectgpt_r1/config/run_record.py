"""``run.json``: duration and results of a training run, for the runs that build on it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from affectgpt_r1.callbacks.run_totals import RunTotals
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.io.plain_json import finite_or_none, write_json
from affectgpt_r1.io.untrusted_files import read_json
from affectgpt_r1.tracking.provenance import git_tags

if TYPE_CHECKING:
    import lightning as L


log = logging.getLogger(__name__)

# Of all other keys: a control trains for the time that the record says, and a sweeper ranks by its metrics
DIGEST = "digest"
# What a command that only answers the test clips of a finished run leaves as it was; a control matches the time
KEPT = ("fit_seconds", "data_seconds", "encoding_seconds", "resumed_at")


def read_record(path: Path) -> dict[str, Any]:
    """Read a ``run.json``.

    Raises:
        CheckpointError: It is damaged; one that a version without digests wrote is taken as it is.
    """
    try:
        record = read_json(path)
        damage = "not a record" if not isinstance(record, dict) else None
        if damage is None and record.pop(DIGEST, None) not in (None, _digest(record)):
            damage = "not what its digest says"
    except ValueError as error:
        record, damage = {}, str(error)
    if damage is not None:
        raise CheckpointError(
            f"{path}: damaged ({damage}); move it away, and the run's command writes it again from its last.ckpt"
        )
    return dict(record)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def wall_time_of(path: str | Path) -> float:
    """Return the ``fit_seconds`` of another run.

    Raises:
        ConfigError: The record is missing, or its time cannot be trained for.
        CheckpointError: It is damaged.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"match_wall_time: no {path}; run that stage first (`make grpo`), or set match_wall_time=null"
        )
    try:
        seconds = float(read_record(Path(path))["fit_seconds"])
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise ConfigError(f"match_wall_time: {path} has no fit_seconds ({error!r}); run that stage again") from error
    if not 0 < seconds < math.inf:
        raise ConfigError(f"match_wall_time: fit_seconds of {path} is {seconds}, not a time to train for")
    return seconds


def write_record(
    config: DictConfig,
    trainer: L.Trainer,
    totals: RunTotals,
    metrics: dict[str, float],
    changes: Sequence[dict[str, Any]] = (),
    *,
    config_hash: str,
    is_repeated: bool = False,
) -> dict[str, float]:
    """Write ``run.json`` into the run's folder.

    Args:
        config: The run's configuration.
        trainer: Has trained.
        totals: Of all parts of the run.
        metrics: The last logged ones.
        changes: Settings that changed when the run was resumed, with the step.
        config_hash: Digest of the configuration of the finished run.
        is_repeated: Whether the run had ended before; its earlier record then keeps the times and metrics of training.

    Returns:
        The metrics, with ``best``: the best value of the monitored metric, NaN where none was monitored.
    """
    best = getattr(trainer.checkpoint_callback, "best_model_score", None)
    result = {**metrics, "best": float("nan") if best is None else float(best)}
    record = {
        "stage": config.stage.name,
        "seed": config.seed,
        "steps": trainer.global_step,
        "monitor": config.stage.monitor,
        "best": None if best is None else float(best),
        **totals.seconds(),
        "peak_memory_mib": round(totals.peak_memory_mib(), 1),
        "resumed_at": totals.resumed_at,
        "config_changes": list(changes),
        "metrics": finite_or_none(metrics),
        "git_commit": git_tags()["git_commit"],
        "config_hash": config_hash,
    }
    folder = Path(config.paths.run)
    if is_repeated and (folder / "run.json").is_file():
        earlier = read_record(folder / "run.json")
        record |= {name: earlier[name] for name in KEPT if name in earlier}
        record["metrics"] = {**earlier.get("metrics", {}), **finite_or_none(metrics)}
    write_json(folder / "run.json", {**record, DIGEST: _digest(finite_or_none(record))})
    reached = "" if best is None else f"best {config.stage.monitor} {float(best):.3f}; "
    log.info("%s ended: %sweights and run.json in %s", config.stage.name, reached, folder)
    return result
