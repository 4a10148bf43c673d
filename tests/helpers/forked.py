"""Programs in forked children of the test's process, which has imported all that a fresh interpreter takes 13 s for."""

from __future__ import annotations

import atexit
import multiprocessing
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
from types import ModuleType
from typing import NoReturn

import torch

from affectgpt_r1.cli.main import main

IMPORTED_LATE = (
    *("torch._dynamo", "torch.distributed.checkpoint", "mlflow.store.tracking.sqlalchemy_store"),
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

    for module in IMPORTED_LATE:
        import_module(module)
    return run_forked(program, on_line)


def run_forked(
    task: Callable[[], object], on_line: Callable[[int, str], None] = lambda pid, line: None
) -> subprocess.CompletedProcess[str]:
    """Run ``task`` in a forked child as a program of its own; its exceptions and exit code are as Python's."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile("w+") as errors, os.fdopen(reader, errors="replace") as output:
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            run_as_program(task, writer, errors.fileno())
        os.close(writer)
        code, printed = None, []
        try:
            for line in output:
                printed.append(line)
                on_line(pid, line)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            if code is None:  # such as a time-out of the test
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        errors.seek(0)
        return subprocess.CompletedProcess([], code, "".join(printed), errors.read())


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

    def run(task: Callable[[], object]) -> None:
        os.setsid()
        run_as_program(task, 1 if output is None else output, 2 if output is None else output)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(task,)) for task in tasks]
    deadline = time.monotonic() + seconds
    try:
        for process in processes:
            process.start()
        while None in (codes := [process.exitcode for process in processes]) and not any(codes):
            if (left := deadline - time.monotonic()) <= 0:
                break
            wait([process.sentinel for process, code in zip(processes, codes, strict=True) if code is None], left)
    finally:
        for process in processes:
            if process.pid is not None:
                _kill_group(process.pid)
                process.join()
    return [-signal.SIGKILL if process.exitcode is None else process.exitcode for process in processes]


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # it may have made no group yet
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


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
