"""Check and instantiate configurations; what an entry point does around its work."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from affectgpt_r1.config.keys import (
    CONFIGS,
    OVERLAYS,
    STAGE_KEYS,
    check_installation,
    check_keys,
    check_overrides,
    config_keys,
    key_of,
    unknown_choice,
    unknown_key,
)
from affectgpt_r1.config.library_errors import explain_library_error, worker_message
from affectgpt_r1.config.overrides import quote_overrides
from affectgpt_r1.config.renamed import TARGETS
from affectgpt_r1.config.run_names import experiment_title, run_baseline, run_folder, run_title, tokenizer_file
from affectgpt_r1.config.targets import check_targets
from affectgpt_r1.errors import AffectGPTError, ConfigError
from affectgpt_r1.io.clean_text import guard_standard_error, message

__all__ = [
    "CONFIGS",
    "STAGE_KEYS",
    "check_composed",
    "check_installation",
    "check_keys",
    "check_overrides",
    "clear_errors",
    "explain",
    "instantiate",
    "instantiate_stage",
    "quote_overrides",
    "resolved",
    "run_with_clear_errors",
]

OmegaConf.register_new_resolver("working_directory", lambda: str(Path.cwd()), replace=True)
OmegaConf.register_new_resolver("repository", lambda: str(Path.cwd()), replace=True)  # in .hydra/ of runs before 0.2
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
OmegaConf.register_new_resolver("experiment_title", experiment_title, replace=True)
OmegaConf.register_new_resolver("run_baseline", run_baseline, replace=True)
OmegaConf.register_new_resolver("run_title", run_title, replace=True)
OmegaConf.register_new_resolver("tokenizer_file", tokenizer_file, replace=True)


def instantiate(config: Any, group: str, **arguments: Any) -> Any:
    """Call Hydra's ``instantiate`` on a part of the configuration, for the targets of its group only.

    Args:
        config: Whose group is the first part of its key.
        group: Says what may be built; see :func:`~.targets.allowed_targets`.
        arguments: More arguments of the target.

    Raises:
        ConfigError: A ``_target_`` is not the group's, or does not exist.
        AffectGPTError: What a target raised, without Hydra's words around it.
    """
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    check_targets(plain, group)
    try:
        return hydra_instantiate(plain, _convert_="all", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, AffectGPTError):
            raise error.__cause__ from None
        if error.__cause__ is not None and (line := explain_library_error(error.__cause__)):
            raise ConfigError(line) from error  # such as a disk that is full
        if isinstance(error.__cause__, ImportError) and str(error).startswith("Error locating target"):
            raise ConfigError(f"{group}: {_one_line(error)}") from error
        raise


def check_composed(config: DictConfig) -> None:
    """Refuse targets that no group has, and keys that nothing would read, before anything is imported or built."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    for name, value in plain.items():
        check_targets(value, str(name))
    check_keys(config)


def instantiate_stage(config: DictConfig) -> Any:
    """Build the stage of ``stage=``."""
    return instantiate({key: value for key, value in resolved(config).items() if key not in STAGE_KEYS}, "stage")


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain dicts and lists, every interpolation resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def run_with_clear_errors(entry: Callable[[], Any]) -> None:
    """Run what ``hydra.main`` decorated; a user's mistake becomes one line and exit code 2."""
    guard_standard_error()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself, and knows no nearest key
    try:
        check_installation()
        sys.argv[1:] = quote_overrides(sys.argv[1:])
        check_overrides(sys.argv[1:])
        entry()
    except (AffectGPTError, HydraException, OmegaConfBaseException) as error:
        _fail(explain(error, sys.argv[1:]))
    except YAMLError as error:
        _fail(explain_library_error(error) or _one_line(error))
    except OSError as error:
        if any(frame.name == "_entry" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        _fail(f"{error.filename}: the run's folder cannot be made ({error.strerror}); choose another by paths.outputs=")
    except KeyboardInterrupt:  # outside of what a run says itself
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def clear_errors(config: DictConfig) -> Iterator[None]:
    """Refuse unknown keys, and end a run in one line after a user's mistake in the body of its entry point.

    :func:`run_with_clear_errors` would say the same, but below a line of Hydra's. In a multirun, where that line tells
    which job failed, the errors are left to it.
    """
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    try:
        check_composed(config)
        yield
    except (AffectGPTError, HydraException, OmegaConfBaseException) as error:
        if hydra.mode == RunMode.MULTIRUN:
            raise
        _fail(explain(error, overrides))
    except BaseException as error:  # tokenizers raise above Exception; what has no line is raised again
        line = explain_library_error(error)
        if line is None or hydra.mode == RunMode.MULTIRUN:
            raise
        _fail(line)


def explain(error: BaseException, overrides: Sequence[str]) -> str:
    """Say in one line what Hydra or this package raised over a command line, with the nearest valid key or choice."""
    if isinstance(error, AffectGPTError):
        return worker_message(str(error))
    if missing := getattr(error, "missing_cfg_file", None):
        group, _, choice = str(missing).partition("/")
        if choice and group not in OVERLAYS:
            group, _, choice = str(missing).rpartition("/")
        return unknown_choice(group, choice) if choice else _one_line(error)
    if named := re.match(r"Could not override '([^']+)'", str(error)):
        return unknown_key(named[1])
    if named := re.match(r"Error parsing override '([^'=]+)'", str(error)):
        return f"{named[1]}: overrides are KEY=VALUE, without blanks"
    if named := re.match(r"Multiple values for (\w+)\.|(\w+) appears more than once", str(error)):
        return f"+{named[1] or named[2]}= is given twice: leave out the +"
    if renamed := next((old for old in TARGETS if f"'{old}'" in str(error)), None):  # of a sweep's callback
        return f"{renamed} was renamed: it is {TARGETS[renamed]} now"
    known = config_keys()
    given = [key_of(word) for word in overrides if "=" in word and not word.startswith(("-", "hydra."))]
    return "; ".join(unknown_key(key) for key in given if key not in known) or _one_line(error)


def _one_line(error: BaseException) -> str:
    return "; ".join(line.strip().removesuffix(":") for line in str(error).splitlines() if line.strip())


def _fail(line: str) -> None:
    command = sys.argv[0] if sys.argv[0].startswith("affectgpt-r1 ") else "affectgpt-r1"  # as the commands set it
    print(message(f"{command}: {line}"), file=sys.stderr)
    raise SystemExit(2)
