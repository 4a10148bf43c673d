"""Programs in forked children of the test's process: a command as a user runs it, without its 13 s of imports."""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import IO

import torch


def run_module(
    module: str,
    *arguments: str,
    prepare: Callable[[], None] = lambda: None,
    on_line: Callable[[int, str], None] = lambda pid, line: None,
) -> subprocess.CompletedProcess[str]:
    """``python -m affectgpt_r1.<module> <arguments>`` in a forked child.

    Args:
        module: Below ``affectgpt_r1``.
        arguments: Of the command line.
        prepare: Called in the child before the module, for instance to kill it at a certain step.
        on_line: Called in the parent with the child's process id and each line that it prints.
    """

    def program() -> None:
        sys.argv = [module, *arguments]
        prepare()
        runpy.run_module(f"affectgpt_r1.{module}", run_name="__main__", alter_sys=True)

    return run_forked(program, on_line)


def run_forked(
    task: Callable[[], object], on_line: Callable[[int, str], None] = lambda pid, line: None
) -> subprocess.CompletedProcess[str]:
    """Run ``task`` in a forked child as the whole of a program; its exceptions and exit code are as Python's."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile("w+") as errors:
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _run_as_program(task, writer, errors)
        os.close(writer)
        printed = []
        with os.fdopen(reader, errors="replace") as output:
            for line in output:
                printed.append(line)
                on_line(pid, line)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        errors.seek(0)
        return subprocess.CompletedProcess([], code, "".join(printed), errors.read())


def _run_as_program(task: Callable[[], object], writer: int, errors: IO[str]) -> None:
    code = 1
    try:
        atexit._clear()  # what the parent does at its end is not the child's to do
        os.dup2(writer, 1)
        os.dup2(errors.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
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
