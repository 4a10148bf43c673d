"""Training runs that SIGKILL ends at the n-th call of a function."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial, reduce, wraps
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from helpers.forked import run_processes

TARGETS = {
    "step": "affectgpt_r1.training.module:AffectModule.on_train_batch_start",
    "validation begins": "affectgpt_r1.training.module:AffectModule.on_validation_epoch_start",
    "validation ends": "affectgpt_r1.training.module:AffectModule.on_validation_epoch_end",
    "best checkpoint": "affectgpt_r1.callbacks.checkpoints:BestCheckpoint.on_validation_end",
    "last checkpoint": "affectgpt_r1.callbacks.checkpoints:LastCheckpoint.on_validation_end",
    "half a checkpoint": "torch:save",
    "flush": "os:fsync",
    "move": "os:replace",
    "database": "sqlalchemy.engine.default:DefaultDialect.do_commit",
    "metrics": "mlflow.tracking:MlflowClient.log_batch",
    "status": "affectgpt_r1.tracking.mlflow_logger:TrackedMLFlowLogger.end",
    "features": "affectgpt_r1.data.feature_store:FeatureStore.write",
    "beginning": "affectgpt_r1.config.run:begin",
    "answers": "affectgpt_r1.evaluation.evaluate_policy:metrics_on_test_split",
    "record": "affectgpt_r1.config.run:write_record",
}
"""Moments of a run, and the functions that are called then."""

SECONDS = 240
"""How long a run may take on a busy machine."""


class Kill(NamedTuple):
    """When a process is killed.

    Attributes:
        moment: One of :data:`TARGETS`; ``time``; or ``none``, which never comes.
        call: Which call of that function, from 1 on; of ``time``, milliseconds.
        when: ``before`` or ``after`` the call.
        rank: The process, of a run of several; the others are killed when it is dead.
    """

    moment: str
    call: int
    when: str = "before"
    rank: int = 0

    def describe(self) -> str:
        """Say in words where it falls."""
        if self.moment == "time":
            return f"after {self.call / 1000:.1f} s"
        return f"{self.when} {self.moment} {self.call}{f' of process {self.rank}' if self.rank else ''}"


def calls_of(folder: Path) -> dict[str, int]:
    """Return how often each function was called in a run that :func:`run_killed` counted."""
    tally: dict[str, int] = json.loads((folder / "calls.json").read_text())
    return tally


def run_killed(
    task: Callable[..., None], num_processes: int, *arguments: Any, log: Path, kill: Kill | None = None
) -> list[int]:
    """Run ``task(rank, *arguments)`` in forked processes.

    Args:
        task: What each does.
        num_processes: How many.
        arguments: For the task.
        log: Takes what they print.
        kill: When one is killed; None counts the calls instead, and writes them next to the log.

    Returns:
        Their exit codes; once one has failed the others are killed.
    """
    tasks = [partial(_run, task, rank, arguments, log, kill) for rank in range(num_processes)]
    with log.open("ab") as file:
        return run_processes(tasks, kill.call / 1000 if kill and kill.moment == "time" else SECONDS, file.fileno())


def _run(task: Callable[..., None], rank: int, arguments: tuple[Any, ...], log: Path, kill: Kill | None) -> None:
    tally: dict[str, int] = dict.fromkeys(TARGETS, 0)
    if kill is None or (kill.moment in TARGETS and kill.rank == rank):
        for moment in TARGETS if kill is None else [kill.moment]:
            _watch(moment, tally, kill)
    task(rank, *arguments)
    if kill is None and rank == 0:
        log.with_name("calls.json").write_text(json.dumps(tally))


def _watch(moment: str, tally: dict[str, int], kill: Kill | None) -> None:
    """Count the calls of a function, and kill this process at the one that is asked for."""
    module, _, path = TARGETS[moment].partition(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, import_module(module))
    function = getattr(owner, name)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if moment == "half a checkpoint" and isinstance(args[1], BytesIO):  # what processes send each other
            return function(*args, **kwargs)
        tally[moment] += 1
        dies = kill is not None and tally[moment] == kill.call
        if dies and kill.when == "before":
            if moment == "half a checkpoint":
                _write_half(function, *args)
            os.killpg(0, signal.SIGKILL)
        result = function(*args, **kwargs)
        if dies:
            os.killpg(0, signal.SIGKILL)
        return result

    setattr(owner, name, call)


def _write_half(save: Callable[..., None], content: Any, target: Any) -> None:
    complete = BytesIO()
    save(content, complete)
    with open(target, "wb") if isinstance(target, str | Path) else nullcontext(target) as file:
        file.write(complete.getvalue()[: complete.tell() // 2])
        file.flush()
