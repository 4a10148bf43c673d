"""What every command on argparse does around its work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from affectgpt_r1.errors import AffectGPTError

Result = TypeVar("Result")


def run_command(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], Result], arguments: Sequence[str] | None
) -> Result:
    """Parse the arguments and work; a user's mistake becomes one line.

    Args:
        parser: Its ``prog`` opens the line.
        work: Does what the options ask for.
        arguments: By default those of the process.

    Raises:
        SystemExit: With code 2 after bad input.
    """
    options = parser.parse_args(arguments)
    try:
        return work(options)
    except AffectGPTError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
