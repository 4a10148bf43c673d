"""Programs in forked children of the test's process, which has imported all that a fresh interpreter takes 13 s for."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import wait
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only as fabric_rank_zero_only
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning_utilities.core.rank_zero import rank_zero_only

from affectgpt_r1.cli.main import main

IMPORTED_LATE = (
    *("torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor"),
    *("torch.distributed.checkpoint.state_dict", "mlflow.store.tracking.sqlalchemy_store"),
    *("affectgpt_r1.config.run", "affectgpt_r1.config.sweep", "affectgpt_r1.evaluation.compare_policies"),
)
"""What commands import when they need it: once in the parent instead of in every child."""


def run_command(
    *arguments: str,
    prepare: Callable[[], None] = lambda: None,
    on_line: Callable[[int, str], None] = lambda pid, line: None,
) -> subprocess.CompletedProcess[str]:
    """Run ``affectgpt-r1 <arguments>`` in a forked child.

    Args:
        arguments: A command and its overrides or options.
        prepare: Called in the child before the command, for instance to kill it at a certain step.
        on_line: Called in the parent with the child's process id and each line that it prints.
    """

    def program() -> None:
        sys.modules["__main__"] = ModuleType("__main__")  # pytest's would be started again by Lightning
        prepare()
        main(arguments)

    return run_forked(program, on_line)


def run_forked(
    task: Callable[[], object], on_line: Callable[[int, str], None] = lambda pid, line: None
) -> subprocess.CompletedProcess[str]:
    """Run ``task`` in a forked child as a program of its own; its exceptions and exit code are as Python's."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile("w+") as errors, os.fdopen(reader, errors="replace") as output:
        pid = fork_program(task, writer, errors.fileno())
        os.close(writer)
        code, printed = None, []
        try:
            for line in output:
                printed.append(line)
                on_line(pid, line)
            code = _code_of(pid)
        finally:
            if code is None:  # such as a time-out of the test
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        errors.seek(0)
        return subprocess.CompletedProcess([], code, "".join(printed), errors.read())


def fork_second_process() -> None:
    """Fork the process that Lightning is about to start, instead of a new interpreter's 13 s of imports.

    For the ``prepare`` of :func:`run_command`. It waits for its arguments and environment, and ends where none come.
    """
    reader, writer = os.pipe()

    def second() -> None:
        os.close(writer)
        with os.fdopen(reader) as file:
            told = file.read()
        if told:
            arguments, environment = json.loads(told)
            os.environ.clear()
            os.environ.update(environment)
            rank_zero_only.rank = fabric_rank_zero_only.rank = 1  # read from the environment on import
            main(["train", *arguments])

    pid = fork_program(second, 1, 2)
    os.close(reader)

    class Forked(subprocess.Popen[bytes]):
        def _execute_child(self, args: list[str], *options: Any) -> None:
            with os.fdopen(writer, "w") as file:
                json.dump((args[3:], options[5]), file)  # python -m MODULE OVERRIDES, and env
            self.pid, self._child_created = pid, True

    subprocess_script.subprocess = SimpleNamespace(Popen=Forked)


def forget_modules(*packages: str) -> None:
    """Let packages be imported again, as by a fresh interpreter; in forked children only."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def run_processes(tasks: Sequence[Callable[[], object]], seconds: float, output: int | None = None) -> list[int]:
    """Run each task in a forked child, the first of a process group of its own.

    Args:
        tasks: What each child does.
        seconds: How long they may take.
        output: Descriptor that takes what they print; None leaves it where the parent's goes.

    Returns:
        Their exit codes. Once one has failed or the time is over, the others are killed with what they have started.
    """
    stdout, stderr = (1, 2) if output is None else (output, output)
    deadline = time.monotonic() + seconds
    pids: list[int] = []
    running: dict[int, int] = {}
    codes: dict[int, int] = {}
    try:
        for task in tasks:
            pids.append(fork_program(task, stdout, stderr, is_group=True))
            running[os.pidfd_open(pids[-1])] = pids[-1]
        while running and not any(codes.values()):
            ended = wait(list(running), max(0.0, deadline - time.monotonic()))
            if not ended:
                break
            codes |= {running[file]: _code_of(running[file]) for file in ended}
            for file in ended:
                os.close(file)
                del running[file]
    finally:
        for file in running:
            os.close(file)
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended, or has made no group yet
                os.killpg(pid, signal.SIGKILL)
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
                codes[pid] = _code_of(pid)
    return [codes[pid] for pid in pids]


def fork_program(task: Callable[[], object], output: int, errors: int, *, is_group: bool = False) -> int:
    """Start ``task`` in a forked child as a program of its own, which prints to two descriptors; return its id."""
    for module in IMPORTED_LATE:
        import_module(module)
    pid = os.fork()
    if pid == 0:
        if is_group:
            os.setsid()
        run_as_program(task, output, errors)
    return pid


def _code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_as_program(task: Callable[[], object], output: int, errors: int) -> NoReturn:
    """Run ``task`` in this child as a program of its own, which prints to two descriptors, and exit."""
    code = 1
    try:
        atexit._clear()  # what the parent does at its end is not the child's to do
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = (os.fdopen(place, "w", buffering=1, closefd=False) for place in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)  # a fork leaves the pool of threads behind
        task()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
