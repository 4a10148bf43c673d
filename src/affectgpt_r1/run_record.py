"""``run.json``: what a training run took and reached, for the runs that build on it."""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.reporting.plain_json import finite_or_none
from affectgpt_r1.reporting.provenance import git_tags

if TYPE_CHECKING:
    import lightning as L


log = logging.getLogger(__name__)


class PhaseClock:
    """Wall time of a run's phases in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure one phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)


def peak_memory_mib() -> float:
    """The process's peak resident set in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def wall_time_of(path: str | Path) -> float:
    """The ``fit_seconds`` of another run.

    Raises:
        ConfigError: There is no such record.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"match_wall_time: no {path}; run that stage first (`make grpo`), or set match_wall_time=null"
        )
    return float(json.loads(Path(path).read_text(encoding="utf-8"))["fit_seconds"])


def write_record(
    config: DictConfig, trainer: L.Trainer, clock: PhaseClock, metrics: dict[str, float], *, config_hash: str
) -> dict[str, float]:
    """Write ``run.json`` into the run's folder, and say where it is.

    Args:
        config: The run's configuration.
        trainer: At the end of training.
        clock: The phases' times.
        metrics: The last logged metrics.
        config_hash: Digest of the configuration that has come to its end.

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
        **clock.seconds,
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "metrics": finite_or_none(metrics),
        "git_commit": git_tags()["git_commit"],
        "config_hash": config_hash,
    }
    folder = Path(config.paths.run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    reached = "" if best is None else f"best {config.stage.monitor} {float(best):.3f}; "
    log.info("%s ended: %sweights and run.json in %s", config.stage.name, reached, folder)
    return result
