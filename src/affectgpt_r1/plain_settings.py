"""Settings that come with a checkpoint as plain values, whoever wrote it: nothing in them is run, built or resolved."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from affectgpt_r1 import REPOSITORY
from affectgpt_r1.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from affectgpt_r1.data.dataset import MediaSettings

ARCHITECTURES = ("model.language_model", "model.video_tower", "model.audio_tower")
ARCHITECTURE_TEXTS = (
    *("pretrained", "source_sha256", "dtype", "model_type", "hidden_act", "feat_extract_norm"),
    *("feat_extract_activation", "projection_hidden_act", "rope_type", "layer_types"),
)
"""Keys of an architecture that may hold text. transformers follows others, such as the name of an attention kernel."""
DTYPES = ("float32", "bfloat16", "float16")

REFERENCE = re.compile(r"\$\{([\w.]+)\}")
REPOSITORY_REFERENCE = "${repository:}"
LONGEST_TEXT = 100_000


def plain_value(value: Any, key: str, origin: Path) -> Any:
    """A value, if it is plain: numbers, texts, and lists and mappings of these.

    Args:
        value: From a checkpoint.
        key: Its dotted key.
        origin: The file that holds it.

    Raises:
        CheckpointError: It names a ``_target_``, interpolates, or is of another kind.
    """
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or re.fullmatch(r"_\w+_", name):
                raise CheckpointError(
                    f"{origin}: {key}.{name} does not belong into a policy's settings, which are plain values; do not "
                    "use this file unless you know who wrote it"
                )
        return {name: plain_value(inner, f"{key}.{name}", origin) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner, key, origin) for inner in value]
    if isinstance(value, str):
        _check_text(value, key, origin)
    elif value is not None and not isinstance(value, bool | int | float):
        raise CheckpointError(f"{origin}: {key} is a {type(value).__name__}, not a plain value")
    return value


def _check_text(value: str, key: str, origin: Path) -> None:
    if "${" in value:
        raise CheckpointError(f"{origin}: {key} holds an interpolation, {value[:80]}, which is not followed")
    name = key.rpartition(".")[2]
    if key.startswith(tuple(f"{part}." for part in ARCHITECTURES)) and name not in ARCHITECTURE_TEXTS:
        raise CheckpointError(f"{origin}: {key}={value[:80]} is text, which this key may not hold in a checkpoint")
    if name == "dtype" and value not in DTYPES:
        raise CheckpointError(f"{origin}: {key}={value[:80]} is unknown; choose among {', '.join(DTYPES)}")


def read_media(values: Mapping[str, Any], origin: Path) -> MediaSettings:
    """Media settings, after a look at their types and values.

    Args:
        values: Plain, by field of :class:`~affectgpt_r1.data.dataset.MediaSettings`.
        origin: The file that holds them.

    Raises:
        CheckpointError: One is unknown, or not what its field takes.
    """
    from affectgpt_r1.data.dataset import MediaSettings

    hints = get_type_hints(MediaSettings)
    for name, value in values.items():
        if name not in hints:
            raise CheckpointError(
                f"{origin}: data.{name} is unknown to this version; use the one that trained the policy"
            )
        if not _fits(value, hints[name]):
            raise CheckpointError(f"{origin}: data.{name}={value!r} is not what data.{name} takes")
    arguments: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
    try:
        return MediaSettings(**arguments)
    except ConfigError as error:
        raise CheckpointError(f"{origin}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    kind, choices = get_origin(hint), get_args(hint)
    if kind is Literal:
        return isinstance(value, str) and value in choices
    if kind is tuple:
        return isinstance(value, list | tuple) and all(_fits(one, choices[0]) for one in value)
    if kind in (Union, types.UnionType):
        return any(_fits(value, one) for one in choices)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)


def read_hydra_config(path: Path) -> Any:
    """A run's ``.hydra/config.yaml``, for checkpoints that hold no configuration.

    It is not resolved, so references to its own keys are put in here, as text; no resolver is called.

    Raises:
        CheckpointError: The file cannot be read.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise CheckpointError(f"{path} cannot be read as a configuration: {str(error).splitlines()[0]}") from error
    return _References(tree).put_in(tree)


class _References:
    """References of a configuration to its own keys, ``${paths.root}``; each key is looked up once."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.known: dict[str, Any] = {}

    def put_in(self, value: Any) -> Any:
        """The value with the texts and numbers that its references name; others stay as they are."""
        if isinstance(value, Mapping):
            return {key: self.put_in(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.put_in(inner) for inner in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if (whole := REFERENCE.fullmatch(value)) is not None:
            return self.named(whole[1])
        text = value.replace(REPOSITORY_REFERENCE, str(REPOSITORY))
        for key in set(REFERENCE.findall(text)):
            text = text.replace(f"${{{key}}}", str(self.named(key)))[:LONGEST_TEXT]
        return text

    def named(self, key: str) -> Any:
        """What a key holds; the reference itself where that is nothing plain, or is being looked up already."""
        if key not in self.known:
            self.known[key] = f"${{{key}}}"
            tree = self.tree
            for name in key.split("."):
                tree = tree.get(name) if isinstance(tree, Mapping) else None
            if isinstance(tree, str | int | float):
                self.known[key] = self.put_in(tree)
        return self.known[key]
