"""Training runs that SIGKILL ends at the n-th call of a function, in processes forked from one that has all imports."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import import_module
from io import BytesIO
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

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
    "answers": "affectgpt_r1.evaluation.evaluate_policy:test_split_metrics",
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
        """Where it falls, in words."""
        if self.moment == "time":
            return f"after {self.call / 1000:.1f} s"
        return f"{self.when} {self.moment} {self.call}{f' of process {self.rank}' if self.rank else ''}"


def calls_of(folder: Path) -> dict[str, int]:
    """How often each function was called in a run that :func:`start` was told to count."""
    tally: dict[str, int] = json.loads((folder / "calls.json").read_text())
    return tally


def run_processes(
    task: Callable[..., None], num_processes: int, *arguments: Any, log: Path, kill: Kill | None = None
) -> list[int]:
    """Run ``task(rank, *arguments)`` in forked processes, each the first of its own group.

    Args:
        task: What each does.
        num_processes: How many.
        arguments: For the task.
        log: Takes what they print.
        kill: When one is killed; None counts the calls instead, and writes them next to the log.

    Returns:
        Their exit codes; once one has failed the others are killed.
    """
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run, args=(task, rank, arguments, log, kill)) for rank in range(num_processes)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + (kill.call / 1000 if kill and kill.moment == "time" else SECONDS)
    while None in (codes := [process.exitcode for process in processes]) and not any(codes):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        wait([process.sentinel for process, code in zip(processes, codes, strict=True) if code is None], left)
    for process in processes:
        _kill_group(process.pid)  # with what it has started
        process.join()
    return [process.exitcode for process in processes]


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # it may have made no group yet
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _run(task: Callable[..., None], rank: int, arguments: tuple[Any, ...], log: Path, kill: Kill | None) -> None:
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)  # a fork leaves the pool of threads behind
    tally: dict[str, int] = dict.fromkeys(TARGETS, 0)
    if kill is None or (kill.moment in TARGETS and kill.rank == rank):
        for moment in TARGETS if kill is None else [kill.moment]:
            _watch(moment, tally, kill)
    try:
        task(rank, *arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if kill is None and rank == 0:
        log.with_name("calls.json").write_text(json.dumps(tally))


def _watch(moment: str, tally: dict[str, int], kill: Kill | None) -> None:
    """Count the calls of a function, and kill this process at the one that is asked for."""
    module, _, path = TARGETS[moment].partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, import_module(module))
    function = getattr(owner, name)

    @functools.wraps(function)
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
    whole = BytesIO()
    save(content, whole)
    with open(target, "wb") if isinstance(target, str | Path) else nullcontext(target) as file:
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
