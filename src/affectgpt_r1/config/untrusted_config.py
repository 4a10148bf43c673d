"""Settings that come with a checkpoint or a run's folder: nothing in them is run, built or resolved unchecked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.policy.untrusted_values import DEEPEST, check_fields

REFERENCE = re.compile(r"\$\{(\w[\w.]*)\}")
MOST_YAML_BYTES = 1 << 17  # a run's configuration has 6,000
MOST_EXPANDED = 1_000_000
MOST_VALUES = 1 << 27  # pixels or samples of a clip; 1,024 frames of 336 x 336 are fewer


def read_media(values: Mapping[str, Any], origin: Path) -> MediaSettings:
    """Return media settings, by field of ``MediaSettings``, after a check of their types and values.

    Raises:
        CheckpointError: One is unknown, or not what its field takes.
    """
    check_fields(values, MediaSettings, "data", origin)
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    try:
        media = MediaSettings(**arguments)
    except ConfigError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    for count, keys in (
        (media.num_frames * media.image_size**2, ("num_frames", "image_size")),
        (media.num_windows * media.window_seconds * 16_000, ("num_windows", "window_seconds")),
    ):
        if not count <= MOST_VALUES:  # NaN is not, either
            told = " with ".join(f"data.{key}={getattr(media, key)}" for key in keys)
            raise CheckpointError(
                f"{origin}: {told} reads more than {MOST_VALUES} values of a clip; do not use this file"
            )
    return media


def read_yaml(path: Path) -> Any:
    """Read a configuration that OmegaConf wrote, as plain dicts and lists in which interpolations stay text.

    Raises:
        CheckpointError: The file cannot be read, is large or deep, names a key twice, or repeats a part of itself by an
            alias, which could make it grow without end.
    """
    depth = 0
    try:
        with path.open("rb") as file:
            text = file.read(MOST_YAML_BYTES + 1)
        if len(text) > MOST_YAML_BYTES:
            raise ValueError(f"larger than {MOST_YAML_BYTES} bytes")
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
                raise ValueError("an alias" if depth <= DEEPEST else f"deeper than {DEEPEST} levels")
        return OmegaConf.to_container(OmegaConf.load(BytesIO(text)), resolve=False)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        said = getattr(error, "problem", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} cannot be read as a configuration: {str(said)[:200]}") from error


def check_interpolations(tree: Any, known: Collection[str], origin: Path) -> None:
    """Check that a configuration may be resolved: it calls nothing, and what its references repeat stays small.

    Args:
        tree: Of :func:`read_yaml`.
        known: Interpolations that it may have besides references to its own keys.
        origin: The file.
    """
    sizes: dict[str, int] = {}

    def size(value: Any, key: str) -> int:
        if isinstance(value, Mapping):
            return 1 + sum(size(inner, f"{key}.{name}") for name, inner in value.items())
        if isinstance(value, list):
            return 1 + sum(size(inner, key) for inner in value)
        if not isinstance(value, str):
            return 1
        rest = REFERENCE.sub("", value)
        for resolver in known:
            rest = rest.replace(resolver, "")
        if "${" in rest:
            raise CheckpointError(
                f"{origin}: {key.lstrip('.')} holds an interpolation, {value[:80]}, which is not followed"
            )
        return len(value) + sum(size_of(name) for name in REFERENCE.findall(value))

    def size_of(name: str) -> int:
        if name not in sizes:
            sizes[name] = MOST_EXPANDED + 1  # while it is looked up: a reference to itself never ends
            value = tree
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else value
            sizes[name] = size(value, name)
        return sizes[name]

    try:
        grows = size(tree, "") > MOST_EXPANDED
    except RecursionError:
        grows = True
    if grows:
        raise CheckpointError(f"{origin}: its references repeat more than {MOST_EXPANDED} characters, or themselves")
