"""Find the runs that an evaluation compares, and describe them for its tables."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.policy_config import settings_of_checkpoint
from affectgpt_r1.config.run_lock import owner_of
from affectgpt_r1.config.run_names import SEPARATOR
from affectgpt_r1.config.run_record import read_record
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import read_checkpoint

log = logging.getLogger(__name__)


def find_checkpoints(config: DictConfig) -> dict[str, str]:
    """Return the checkpoint of each system of ``systems``; a missing default one is left out with a warning.

    Raises:
        CheckpointError: A checkpoint that was asked for is missing, a run is being trained, or there is no checkpoint.
    """
    named = OmegaConf.to_container(config.systems, resolve=True)
    assert isinstance(named, dict)
    experiment = Path(config.paths.experiment)
    checkpoints: dict[str, str] = {}
    for name, path in ((str(name), path) for name, path in named.items() if path is not None):
        default = experiment / name / "checkpoints" / "best.ckpt"
        others = [str(path) for path in sorted(experiment.glob(f"{name}{SEPARATOR}*/checkpoints/best.ckpt"))]
        is_default = Path(path).absolute() == default.absolute()
        if not Path(path).exists():
            if not is_default:
                raise CheckpointError(f"systems.{name}={path}: no such checkpoint; correct the path, or leave it out")
            choices = f"; choose by systems.{name}= one of {', '.join(others)}" if others else ""
            log.warning("No %s at %s: it is left out%s", name, path, choices)
            continue
        if owner := owner_of(Path(path).parent.parent):
            raise CheckpointError(
                f"systems.{name}={path} is being trained by {owner}: wait for it, or leave it out (systems.{name}=null)"
            )
        if is_default and others:
            log.info("%s is %s; systems.%s= may name one of %s", name, path, name, ", ".join(others))
        checkpoints[name] = str(path)
    if not checkpoints:
        raise CheckpointError(
            f"None of {', '.join(map(str, named.values()))} exists: run `make sft` and `make grpo` first"
        )
    return checkpoints


def describe_run(checkpoint: str, outputs: str | Path) -> dict[str, Any]:
    """Return ``checkpoint``, ``stage``, ``step``, ``seed``, ``git_commit`` and ``finished`` of a checkpoint's run.

    What is not known is None.

    Args:
        checkpoint: ``<run>/checkpoints/best.ckpt``.
        outputs: ``checkpoint`` is given relative to this folder, if it is below.
    """
    stored = read_checkpoint(checkpoint)
    facts = settings_of_checkpoint(checkpoint).facts
    path = Path(checkpoint).absolute()
    file = path.parent.parent / "run.json"
    record = read_record(file) if file.is_file() else {}
    root = Path(outputs).absolute()
    return {
        "checkpoint": str(path.relative_to(root) if path.is_relative_to(root) else path),
        "stage": facts.get("stage.name", record.get("stage")),
        "step": stored.get("global_step"),
        "seed": facts.get("seed", record.get("seed")),
        "git_commit": record.get("git_commit"),
        "finished": file.is_file(),
    }
