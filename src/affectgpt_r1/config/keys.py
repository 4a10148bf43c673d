"""Which keys a configuration may hold: those of ``configs/``, and the arguments of each ``_target_``."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from affectgpt_r1.config.renamed import CHOICES, new_key, new_override
from affectgpt_r1.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]
_IN_WHEEL, _IN_CLONE = _PACKAGE / "configs", _PACKAGE.parents[1] / "configs"
CONFIGS = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CLONE

STAGE_KEYS = ("name", "monitor", "mode")  # of `stage`, but not arguments of its class
OVERLAYS = ("experiment", "objective", "ablation", "debug")  # groups whose files only change keys of others
OPEN = ("callbacks", "logger")  # mappings with any names
# `outdated`, `auto`, `warn`, a time
WORDS_TOO = ("overwrite", "trainer.devices", "trainer.deterministic", "trainer.val_check_interval")

_PACKAGE_LINE = re.compile(r"# @package ([\w.]+)")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """OmegaConf's reading of numbers in the parser of C, which takes a tenth of the time."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


_HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check_installation() -> None:
    """Refuse an installation without ``configs/``, such as a copy of ``src/`` alone, and say how to install."""
    if not CONFIGS.is_dir():
        raise ConfigError(
            f"neither {_IN_WHEEL} nor {_IN_CLONE} is there: install with `pip install 'affectgpt-r1[train]'`, "
            "or in a clone by `make setup`"
        )


@cache
def config_items() -> tuple[tuple[str, Any, str], ...]:
    """Return each dotted key of ``configs/``, its value there, and the choice that has it, such as ``stage=grpo``."""
    return tuple(_config_items())


def _config_items() -> Iterator[tuple[str, Any, str]]:
    for path in sorted(CONFIGS.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        plain = yaml.load(text, _Loader)
        group, choice = _group_of(path)
        if group:
            yield group, None, ""
        package = _PACKAGE_LINE.match(text)
        prefix = package[1] if package else group.replace("/", ".")
        prefix = f"{prefix}." if prefix not in ("", "_global_") else ""
        if isinstance(plain, Mapping):
            for key, value in _dotted(plain, prefix):
                yield key, value, f"{group}={choice}" if group else ""


def _group_of(path: Path) -> tuple[str, str]:
    """Return the group and the name that chooses a file of ``configs/``: ``experiment`` and ``demo/sft``."""
    folder, name = path.relative_to(CONFIGS).parent.as_posix().removeprefix("."), path.stem
    group, _, inner = folder.partition("/")
    return (group, f"{inner}/{name}" if inner else name) if group in OVERLAYS else (folder, name)


def choices_of(group: str) -> list[str]:
    """Return the names that choose a file of a group."""
    return sorted(name for folder, name in map(_group_of, CONFIGS.rglob("*.yaml")) if folder == group)


def config_keys() -> set[str]:
    """Return every dotted key of ``configs/``, and the groups."""
    return {key for key, _, _ in config_items()}


def check_keys(config: DictConfig) -> None:
    """Refuse keys that nothing would read: Hydra takes them after a ``+``, and from the user's own files.

    Arguments are valid below a ``_target_``; elsewhere the keys of ``configs/``, without those that only experiments
    have, since these change what others define.

    Raises:
        ConfigError: Names the first such key and the nearest valid one.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, Mapping)
    known = {key for key, _, choice in config_items() if not _is_overlay(choice)}
    for where, node in _checked_mappings(plain):
        prefix = f"{where}." if where else ""
        if "_target_" in node:
            names = _arguments(str(node["_target_"]), _children(known, prefix))
        else:
            names = _children(known, prefix) or None
        if names is None:
            continue
        names |= {*_HYDRA_KEYS, *(STAGE_KEYS if where == "stage" else ())}
        for name in node:
            if name not in names:
                raise ConfigError(unknown_key(f"{prefix}{name}", {f"{prefix}{valid}" for valid in names}))


def unknown_key(key: str, valid: Iterable[str] = ()) -> str:
    """Say of a key that does not exist what its new name is, which choice has it, or which is the nearest.

    Args:
        key: Dotted.
        valid: Valid keys that ``configs/`` need not hold.
    """
    if (renamed := new_key(key)) is not None:
        return f"{key} was renamed: it is {renamed} now"
    choices = sorted({choice for known, _, choice in config_items() if known == key and not _is_overlay(choice)} - {""})
    if choices:
        return f"{key} is not a key of this configuration; it belongs to {' and '.join(choices)}"
    known = sorted(name for name in config_keys().union(valid) if not key.startswith(f"{name}."))
    parent, _, last = key.rpartition(".")
    deeper = [name for name in known if parent and name.startswith(f"{parent}.") and name.endswith(f".{last}")]
    nearest = deeper or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    siblings = sorted(_children(config_keys(), f"{parent}.") - set(_HYDRA_KEYS)) if parent else []
    remedy = "configs/README.md lists them"
    if nearest:
        remedy = f"the nearest is {nearest[0]}"
    elif siblings:
        remedy = f"{parent} has {', '.join(siblings)}"
    return f"{key} is not a key of this configuration; {remedy}"


def without(group: str) -> str | None:
    """Return the override that leaves a group out, as ``GROUP=null`` asks for; None where a run needs a choice.

    >>> without("logger"), without("experiment"), without("model")
    ('logger=none', '~experiment', None)
    """
    if group in OVERLAYS:
        return f"~{group}"
    return f"{group}=none" if "none" in choices_of(group) else None


def unknown_choice(group: str, choice: str) -> str:
    """Say of a file that a group lacks what its new name is, or the nearest and all that there are."""
    if (renamed := CHOICES.get(f"{group}={choice}")) is not None:
        return f"{group}={choice} was renamed: give {renamed}"
    files = choices_of(group)
    nearest = difflib.get_close_matches(choice, files, n=1, cutoff=0.0)
    remedy = f"; the nearest is {nearest[0]}, and there are {', '.join(files)}" if nearest else ""
    return f"{group}={choice}: there is no {CONFIGS / group / choice}.yaml{remedy}"


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse overrides that cannot be meant, before Hydra reads the command line; options of Hydra's are left to it.

    Raises:
        ConfigError: An override was renamed, begins with dashes, chooses no file of a group, or gives text where
            ``configs/`` has numbers.
    """
    for override in (override for override in overrides if "=" in override):
        key, _, given = override.lstrip("+").partition("=")
        if (renamed := new_override(override)) is not None:
            raise ConfigError(f"{override} was renamed: give {renamed}")
        if override.startswith("--") and key_of(override[2:]) in config_keys():
            raise ConfigError(f"{override}: keys have no dashes, as in {key_of(override[2:])}=VALUE")
        if given in ("", "null") and (CONFIGS / key).is_dir():
            raise ConfigError(unknown_choice(key, given))
        if mistyped := _mistyped(key, override):
            raise ConfigError(mistyped)


def _mistyped(key: str, override: str) -> str | None:
    numbers = [value for value in _values().get(key, ()) if not (isinstance(value, str) and value.startswith("${"))]
    is_numeric = numbers and all(isinstance(value, int | float) for value in numbers)
    if not is_numeric or key in WORDS_TOO or "${" in override:
        return None
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:  # which Hydra will say better
        return None
    if parsed.is_sweep_override():
        return None
    value = parsed.value()
    if all(isinstance(number, bool) for number in numbers):
        fault = None if value in (True, False, None) else "neither true nor false"
    else:
        fault = "not a number" if isinstance(value, str | list | dict) else None
    return fault and f"{key}={override.partition('=')[2]} is {fault}; configs/ has {key}={str(numbers[0]).lower()}"


@cache
def text_keys() -> frozenset[str]:
    """Return the keys that have nothing but text in ``configs/``, such as ``experiment_name``."""
    return frozenset(key for key, values in _values().items() if all(map(_is_text, values)))


@cache
def _values() -> dict[str, list[Any]]:
    """Return all values of each key in ``configs/`` that are not null; experiments left out."""
    values: dict[str, list[Any]] = {}
    for key, value, choice in config_items():
        if not _is_overlay(choice) and value is not None:
            values.setdefault(key, []).append(value)
    return values


def _is_text(value: object) -> bool:
    # A value that is one interpolation has the type of what it refers to.
    return isinstance(value, str) and not re.fullmatch(r"\$\{[^{}]*\}", value)


def key_of(override: str) -> str:
    """Return the key that a command-line override sets: ``stage.beta`` of ``+stage.beta=1``."""
    return re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0]


def _is_overlay(choice: str) -> bool:
    return choice.partition("=")[0] in OVERLAYS


def _checked_mappings(tree: Mapping[Any, Any], where: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield mappings by dotted key; what is an argument of a target only if it has a target of its own."""
    yield where, tree
    for name, value in tree.items():
        inner = f"{where}.{name}" if where else str(name)
        if not isinstance(value, Mapping):
            continue
        if inner in OPEN or ("_target_" in tree and "_target_" not in value):
            for deeper, node in value.items():
                if isinstance(node, Mapping) and "_target_" in node:
                    yield from _checked_mappings(node, f"{inner}.{deeper}")
        else:
            yield from _checked_mappings(value, inner)


def _arguments(target: str, named: set[str]) -> set[str] | None:
    """Return the parameters of a target; None where it takes any, or does not exist, which building it will say.

    Args:
        target: Of this package, or another's.
        named: What ``configs/`` has there. A class of this package with ``**options`` takes these, or hands them to the
            class that it extends.
    """
    try:
        built = get_object(target)
        signature = inspect.signature(built)
    except (ImportError, ValueError):
        return None
    own = [base for base in inspect.getmro(built) if "__init__" in vars(base)] if inspect.isclass(built) else []
    inits = [inspect.signature(vars(base)["__init__"]) for base in own if base.__module__.startswith("affectgpt_r1.")]
    names: set[str] = set()
    for init in inits or [signature]:
        names |= {parameter.name for parameter in init.parameters.values()}
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in init.parameters.values()):
            return names
    return names | named if inits else None


def _children(known: set[str], prefix: str) -> set[str]:
    return {key.removeprefix(prefix).split(".")[0] for key in known if key.startswith(prefix)}


def _dotted(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if key == "defaults":
            continue
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
