"""Values that come with a checkpoint or an exported folder, whoever wrote it: nothing in them is run or resolved."""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.io.untrusted_files import read_json

ARCHITECTURES = ("model.language_model", "model.video_encoder", "model.audio_encoder", "model.question_encoder")
# Keys of an architecture that may hold text. transformers follows others, such as the name of an attention kernel.
ARCHITECTURE_TEXTS = (
    *("pretrained", "source_sha256", "dtype", "model_type", "hidden_act", "feat_extract_norm"),
    *("feat_extract_activation", "projection_hidden_act", "rope_type", "layer_types"),
    *("activation_function", "tokenizer", "position_embedding_type"),
)
DTYPES = ("float32", "bfloat16", "float16")
# Patterns of an architecture's keys, and their largest value: a larger one would be built until memory ends
MOST = ((r"num_\w*|\w*_layers", 4096), (r"\w*_(size|dim|embeddings)|r|max_new_tokens", 1 << 24))

DEEPEST = 32  # lists and mappings inside one another


def plain_value(value: Any, key: str, origin: Path) -> Any:
    """Return a value of a checkpoint or an exported folder if it is plain: numbers, texts, lists and mappings of these.

    Raises:
        CheckpointError: It names a ``_target_``, interpolates, is of another kind, or too large or too deep.
    """
    return _plain(value, key, origin, 0)


def _plain(value: Any, key: str, origin: Path, depth: int) -> Any:
    if depth > DEEPEST:
        raise CheckpointError(f"{origin}: {key[:200]} is deeper than {DEEPEST} levels; do not use this file")
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or re.fullmatch(r"_\w+_", name):
                raise CheckpointError(
                    f"{origin}: {key}.{str(name)[:80]} does not belong into a policy's settings, which are plain "
                    "values; do not use this file unless you know who wrote it"
                )
        return {name: _plain(inner, f"{key}.{name}", origin, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, key, origin, depth + 1) for inner in value]
    if isinstance(value, str):
        _check_text(value, key, origin)
    elif value is not None and not isinstance(value, bool | int | float):
        raise CheckpointError(f"{origin}: {key} is a {type(value).__name__}, not a plain value")
    elif isinstance(value, int | float) and _is_architecture(key):
        _check_number(value, key, origin)
    return value


def _is_architecture(key: str) -> bool:
    return key.startswith((*(f"{part}." for part in ARCHITECTURES), "model.lora."))


def _check_text(value: str, key: str, origin: Path) -> None:
    if "${" in value:
        raise CheckpointError(f"{origin}: {key} holds an interpolation, {value[:80]}, which is not followed")
    name = key.rpartition(".")[2]
    if key.startswith(tuple(f"{part}." for part in ARCHITECTURES)) and name not in ARCHITECTURE_TEXTS:
        raise CheckpointError(f"{origin}: {key}={value[:80]} is text, which this key may not hold in a checkpoint")
    if name == "dtype" and value not in DTYPES:
        raise CheckpointError(f"{origin}: {key}={value[:80]} is unknown; choose among {', '.join(DTYPES)}")


def _check_number(value: float, key: str, origin: Path) -> None:
    name = key.rpartition(".")[2]
    for pattern, most in MOST:
        if re.fullmatch(pattern, name) and value > most:
            raise CheckpointError(f"{origin}: {key}={value} is above {most}; do not use this file")


def check_known(names: Iterable[str], known: Collection[str], group: str, origin: Path) -> None:
    """Refuse settings of a policy that this version does not have."""
    for name in names:
        if name not in known:
            raise CheckpointError(
                f"{origin}: {group}.{name[:80]} is unknown to this version; use the one that trained the policy"
            )


def check_fields(values: Mapping[str, Any], settings: type, group: str, origin: Path) -> None:
    """Check that plain values, by name, are fields of the dataclass ``settings``, and of their types."""
    hints = get_type_hints(settings)
    check_known(values, hints, group, origin)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise CheckpointError(f"{origin}: {group}.{name}={value!r:.80} is not what {group}.{name} takes")


def _fits(value: Any, hint: Any) -> bool:
    kind, choices = get_origin(hint), get_args(hint)
    if kind is Literal:
        return isinstance(value, str) and value in choices
    if kind is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, choices[0]) for item in value)
    if kind in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in choices)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)


def read_mapping(path: Path, remedy: str, most_bytes: int = 1 << 20) -> dict[str, Any]:
    """Return the mapping in a JSON file of settings of at most ``most_bytes``.

    Raises:
        CheckpointError: It is missing, damaged, too large or too deep, or has no mapping.
    """
    try:
        content = read_json(path, most_bytes)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as settings ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold settings; {remedy}")
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        inner = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level = [value for values in inner for value in values]
    if level:
        raise CheckpointError(f"{path} is deeper than {DEEPEST} levels; {remedy}")
    return content
