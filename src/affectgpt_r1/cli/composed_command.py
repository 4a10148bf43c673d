"""What the commands share that take overrides: all of Hydra's, and those that have options of their own as well."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from affectgpt_r1.cli.command import PROGRAM, Result, printable_usage_errors, with_one_line_errors
from affectgpt_r1.config.compose import (
    CONFIGS,
    check_composed,
    check_installation,
    check_overrides,
    explain,
    quote_overrides,
    run_with_clear_errors,
)
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import guard_standard_error


def run_composed_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, DictConfig], Result],
    arguments: Sequence[str] | None,
    first: Sequence[str] = (),
) -> Result:
    """As :func:`~.command.run_command`, for a command that also takes overrides of ``configs/train.yaml``.

    Args:
        parser: See :func:`~.command.run_command`.
        work: Takes the options, with the user's overrides as ``overrides``, and the composed configuration.
        arguments: See :func:`~.command.run_command`.
        first: Overrides that come before the user's.

    Raises:
        SystemExit: With code 2 after bad input.
    """
    guard_standard_error()
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", help="more configurations, as `train` takes them")
    with printable_usage_errors():
        options, overrides = parser.parse_known_args(arguments)
        if unknown := [override for override in overrides if override.startswith("-")]:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.overrides = overrides

    def compose_and_work() -> Result:
        try:
            check_installation()
            quoted = quote_overrides(overrides)
            check_overrides(quoted)
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                config = compose("train", overrides=[*_search_path(options.config_dir), *first, *quoted])
            check_composed(config)
            return work(options, config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, overrides)) from error

    return with_one_line_errors(parser.prog, compose_and_work)


def _search_path(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: there is no such folder")
    return [f"hydra.searchpath=[{json.dumps(f'file://{folder.absolute()}')}]"]


def run_hydra_command(name: str, entry: Callable[[], None]) -> None:
    """Run what ``hydra.main`` decorated; errors name the command, whether the console script or ``-m`` started it.

    Args:
        name: Of the command.
        entry: Takes its overrides from ``sys.argv``.
    """
    sys.argv[0] = f"{PROGRAM} {name}"
    run_with_clear_errors(entry)
