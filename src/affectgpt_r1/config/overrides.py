"""Overrides of the command line that Hydra's grammar cannot read, or reads otherwise than they are meant.

In that grammar letters beyond ASCII, brackets, apostrophes and a second ``=`` need quotes, and ``1e-3`` is a number.
Folders have such names every day.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from affectgpt_r1.config.keys import text_keys, without
from affectgpt_r1.errors import ConfigError


def given_overrides() -> list[str]:
    """Return the overrides on the command line of the Hydra job that runs; none outside of one."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def quote_overrides(arguments: Sequence[str]) -> list[str]:
    """Quote the values of a command line that Hydra would refuse, and numbers that are meant as text.

    ``GROUP=null``, which Hydra takes in its files only, becomes what leaves the group out. What is not ``KEY=VALUE`` is
    left as it is.

    Raises:
        ConfigError: A list or mapping cannot be read, or a ``~`` was not expanded by the shell; names the key.

    >>> quote_overrides(["paths.data=/data/clips (copy)", "seed=1,2", "experiment_name=1e-3", "-m"])
    ['paths.data="/data/clips (copy)"', 'seed=1,2', 'experiment_name="1e-3"', '-m']
    >>> quote_overrides(["experiment=null"])
    ['~experiment']
    """
    return [_quoted(word) if "=" in word and not word.startswith("-") else word for word in arguments]


def _quoted(override: str) -> str:
    key, _, value = override.partition("=")
    if value == "null" and (left_out := without(key)) is not None:
        return left_out
    if value.startswith("~"):
        raise ConfigError(f"{override}: the shell expands ~ only at the start of a word; write {key}=$HOME/… instead")
    parsed = _parsed(override)
    plain_key = key.lstrip("+~")
    if parsed is None and not value.startswith(("[", "{")):
        requoted = f"{key}={_in_quotes(value)}"
        if _parsed(requoted) is not None:
            return requoted
    if parsed is None:
        raise ConfigError(
            f"{plain_key}: the value {value} cannot be read; quote it for the shell and for Hydra, as in "
            f"'{plain_key}=\"VALUE\"'; lists are [a,b], mappings {{a: 1}}"
        )
    (read,) = parsed
    is_number = isinstance(read, int | float) and not isinstance(read, bool)
    return f"{key}={_in_quotes(value)}" if is_number and plain_key in text_keys() else override


def _parsed(override: str) -> tuple[object] | None:
    """Return the value that Hydra reads, in a tuple; None where it cannot read the override."""
    try:
        parsed = OverridesParser.create().parse_override(override)
        return (None if parsed.is_sweep_override() else parsed.value(),)
    except HydraException:
        return None


def _in_quotes(value: str) -> str:
    # In Hydra's quotes a backslash escapes only a quote, or backslashes that come before one.
    head = value.rstrip("\\")
    escaped = head.replace('\\"', '\\\\"').replace('"', '\\"') + "\\" * 2 * (len(value) - len(head))
    return f'"{escaped}"'
