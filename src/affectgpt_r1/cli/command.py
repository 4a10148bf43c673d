"""What the commands on argparse do around their work."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, TypeVar

from affectgpt_r1.config.library_errors import explain_library_error
from affectgpt_r1.errors import AffectGPTError
from affectgpt_r1.io.clean_text import cut, guard_standard_error, message, printable

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
    guard_standard_error()
    with _printable_complaints():
        options = parser.parse_args(arguments)
    try:
        return work(options)
    except BaseException as error:  # tokenizers raise above Exception; what has no line is raised again
        said = explain_library_error(error)
        if said is None:
            raise
        print(message(f"{parser.prog}: {said}"), file=sys.stderr)
        raise SystemExit(2) from None


def run_composed_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, DictConfig], Result],
    arguments: Sequence[str] | None,
    first: Sequence[str] = (),
) -> Result:
    """As :func:`run_command`, for a command that takes overrides of ``configs/train.yaml`` beside its own options.

    Args:
        parser: See :func:`run_command`.
        work: Takes the options, the user's overrides among them as ``overrides``, and the composed configuration.
        arguments: See :func:`run_command`.
        first: Overrides that come before the user's.

    Raises:
        SystemExit: See :func:`run_command`.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from affectgpt_r1.config.compose import (
        CONFIGS,
        check_composed,
        check_installation,
        check_overrides,
        explain,
        quote_overrides,
    )

    guard_standard_error()
    with _printable_complaints():
        options, overrides = parser.parse_known_args(arguments)
        if options_unknown := [override for override in overrides if override.startswith("-")]:
            parser.error(f"unrecognized arguments: {' '.join(options_unknown)}")
    options.overrides = overrides
    try:
        check_installation()
        overrides = quote_overrides(overrides)
        check_overrides(overrides)
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", overrides=[*first, *overrides])
        check_composed(config)
        return work(options, config)
    except (AffectGPTError, HydraException, OmegaConfBaseException) as error:
        print(message(f"{parser.prog}: {explain(error, overrides)}"), file=sys.stderr)
        raise SystemExit(2) from None
    except BaseException as error:  # as above
        said = explain_library_error(error)
        if said is None:
            raise
        print(message(f"{parser.prog}: {said}"), file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def _printable_complaints() -> Iterator[None]:
    """Clean what argparse says of arguments: ``*`` of a shell puts the names of files among them."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            yield
    finally:
        sys.stderr.write("\n".join(cut(printable(line)) for line in said.getvalue().split("\n")))
