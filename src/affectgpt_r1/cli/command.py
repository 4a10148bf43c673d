"""What the commands on argparse share: parse, load what is heavy, turn a user's mistake into one line."""

from __future__ import annotations

import argparse
import gc
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from affectgpt_r1.config.library_errors import explain_library_error
from affectgpt_r1.io.clean_text import cut, guard_standard_error, message, printable
from affectgpt_r1.io.garbage_collection import no_garbage_collection

PROGRAM = "affectgpt-r1"

Result = TypeVar("Result")


def lazy(path: str) -> Callable[..., Any]:
    """Return a function of this package that is imported when it is first called.

    ``--help`` and a mistyped option then do not wait for torch, which takes seconds.

    Args:
        path: ``module:function``, such as ``evaluation.score_files:score_files``.
    """
    module, _, name = path.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(_imported(f"affectgpt_r1.{module}"), name)(*args, **kwargs)

    return call


def _imported(module: str) -> ModuleType:
    """Import a module without searching torch and transformers for garbage, which takes a quarter of the CPU time."""
    if module in sys.modules:
        return sys.modules[module]
    with no_garbage_collection():
        try:
            return import_module(module)
        finally:
            gc.freeze()  # neither now nor when the process ends


def run_command(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], Result], arguments: Sequence[str] | None
) -> Result:
    """Parse the arguments and call ``work`` with the options.

    Args:
        parser: Its ``prog`` opens the line that a mistake becomes.
        work: Does what the options ask for.
        arguments: By default those of the process.

    Raises:
        SystemExit: With code 2 after bad input.
    """
    guard_standard_error()
    with printable_usage_errors():
        options = parser.parse_args(arguments)
    return with_one_line_errors(parser.prog, lambda: work(options))


def with_one_line_errors(prog: str, work: Callable[[], Result]) -> Result:
    """Turn a user's mistake into one line and exit code 2; a fault of the program keeps its traceback."""
    try:
        return work()
    except BaseException as error:  # tokenizers raises above Exception
        explanation = explain_library_error(error)
        if explanation is None:
            raise
        print(message(f"{prog}: {explanation}"), file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def printable_usage_errors() -> Iterator[None]:
    """Escape control characters in argparse's complaints: a shell's ``*`` puts names of files among the arguments."""
    complaints = io.StringIO()
    try:
        with redirect_stderr(complaints):
            yield
    finally:
        sys.stderr.write("\n".join(cut(printable(line)) for line in complaints.getvalue().split("\n")))
