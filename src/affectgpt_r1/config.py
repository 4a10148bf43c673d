"""Composing, checking and instantiating configurations. OmegaConf and Hydra stay here and in the entry points."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.errors import AffectGPTError, ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"

ALLOWED_TARGETS = ("affectgpt_r1.", "lightning.pytorch.", "torch.optim.")
"""``_target_`` prefixes that a configuration may name; one that comes with a checkpoint could name anything else."""

STAGE_KEYS = ("name", "monitor", "mode")
"""Keys of ``stage`` that are not arguments of its class."""

OmegaConf.register_new_resolver("repository", lambda: str(REPOSITORY), replace=True)


def instantiate(config: Any, **arguments: Any) -> Any:
    """Hydra's ``instantiate`` for allowed targets only.

    Raises:
        ConfigError: A ``_target_`` outside :data:`ALLOWED_TARGETS`, or one that does not exist.
    """
    from hydra.utils import instantiate as hydra_instantiate

    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    for target in _targets(plain):
        if not (target.startswith(ALLOWED_TARGETS) and _home_of(target).startswith(ALLOWED_TARGETS)):
            raise ConfigError(
                f"_target_: {target} is not allowed; it must begin with {' or '.join(ALLOWED_TARGETS)}, and be defined "
                "there, not only imported"
            )
    return hydra_instantiate(plain, _convert_="all", **arguments)


def instantiate_stage(config: DictConfig) -> Any:
    """The stage of ``stage=``."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return instantiate({key: value for key, value in plain.items() if key not in STAGE_KEYS})


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists, every interpolation resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def run_with_clear_errors(entry: Callable[[], Any]) -> None:
    """Run a Hydra entry point; a user's mistake becomes one line and exit code 2, with the nearest valid key.

    Args:
        entry: The function that ``hydra.main`` decorated.
    """
    from hydra.errors import HydraException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself, and knows no nearest key
    try:
        entry()
    except AffectGPTError as error:
        _fail(str(error))
    except HydraException as error:
        _fail(explain(error, sys.argv[1:]))
    except OSError as error:
        if any(frame.name == "_entry" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        _fail(f"{error.filename}: the run's folder cannot be made ({error.strerror}); choose another by paths.outputs=")
    except (TypeError, ValueError) as error:
        if wrong := mistyped(sys.argv[1:]):
            _fail(f"{wrong} ({error})")
        raise


def mistyped(overrides: Sequence[str]) -> str | None:
    """The first override that gives text where the configuration files have numbers, in words; None without one.

    Args:
        overrides: The command line.
    """
    defaults: dict[str, list[Any]] = {}
    for key, value in _config_items():
        if value is not None:
            defaults.setdefault(key, []).append(value)
    for override in overrides:
        key, _, given = override.lstrip("+").partition("=")
        numbers = [value for value in defaults.get(key, []) if isinstance(value, int | float)]
        is_number = bool(numbers) and len(numbers) == len(defaults[key])
        if is_number and isinstance(OmegaConf.from_dotlist([f"given={given}"]).given, str):
            return f"{key}={given} is no number; configs/ has {key}={numbers[0]}"
    return None


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message, and below it the nearest valid key for every override whose key does not exist.

    Args:
        error: What Hydra raised.
        overrides: The command line.
    """
    messages = [str(error)]
    known = sorted(_config_keys())
    for override in overrides:
        key = re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0]
        if "=" not in override or override.startswith("-") or key in known:
            continue
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        messages.append(f"{key} is no key of this configuration; the nearest is {nearest[0]}")
    return "\n".join(messages)


def _config_keys() -> set[str]:
    return {key for key, _ in _config_items()}


def _config_items() -> Iterator[tuple[str, Any]]:
    """Every dotted key that some group choice has, with its value there; and the groups themselves."""
    for path in CONFIGS.rglob("*.yaml"):
        loaded = OmegaConf.load(path)
        group = path.relative_to(CONFIGS).parent.as_posix().replace("/", ".").removeprefix(".")
        is_global = group in ("", "experiment", "debug", "ablation")
        if group and group not in ("", "."):
            yield group.replace(".", "/"), None
        plain = OmegaConf.to_container(loaded, resolve=False)
        if isinstance(plain, Mapping):
            yield from _dotted(plain, "" if is_global else f"{group}.")


def _dotted(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if key == "defaults":
            continue
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")


def _targets(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield str(tree["_target_"])
        for value in tree.values():
            yield from _targets(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _targets(value)


def _home_of(target: str) -> str:
    """The module that defines a target, with a closing dot: ``os.system`` is at home in ``posix``."""
    from hydra.utils import get_object

    try:
        return f"{getattr(get_object(target), '__module__', '')}."
    except (ImportError, ValueError) as error:
        raise ConfigError(f"_target_: {target} does not exist ({error})") from error


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
