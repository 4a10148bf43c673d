"""Settings that belong to a policy: read from its checkpoint, and laid over a composed configuration.

A policy that was trained on faces, frames and text in one prompt mode means nothing under other settings. All users of
a checkpoint therefore take them from it, and refuse an override that contradicts them, except for :data:`QUESTIONS`.
A checkpoint may come from anyone: no ``_target_``, interpolation or name of a class in it is ever followed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.keys import CONFIGS, config_items, key_of
from affectgpt_r1.config.overrides import given_overrides
from affectgpt_r1.config.run_names import RENDERED_TOKENIZER, TOKENIZER
from affectgpt_r1.config.untrusted_config import read_media
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.build_policy import MODEL_KEYS, NOT_MODEL, family_of
from affectgpt_r1.policy.checkpoint import read_checkpoint
from affectgpt_r1.policy.hf_export import read_processor
from affectgpt_r1.policy.hf_folder import SETTINGS_FILE, read_exported
from affectgpt_r1.policy.untrusted_values import check_known, plain_value

# Keys that may differ at evaluation from what the policy was trained with; the tables say so
QUESTIONS = (
    "data.modalities",  # fewer of them: an ablation
    "prompt.force_answer",
    "prompt.max_completion_length",
    "prompt.sampling",
    "prompt.kind",  # another question, if training asked it, too
    "emotion.lexicon",
)

# Last parts of keys that say how, not what, a policy computes: an override wins, and no run is refused for them
THIS_MACHINE = ("dtype", "dropout", "decoder", "attn_implementation", "tokenizer")

# Files and folders: looked for where the checkpoint says, and where the configuration here says
PLACES = ("model.tokenizer", "model.weights", "encoders_from")

# What a chosen file of a group says for certain; experiments may have changed its other keys in training
NAMED_BY = {
    "prompt": ("prompt.enable_thinking", "prompt.kind", "prompt.name"),
    "model": ("model.language_model.pretrained", "model.language_model.hidden_size"),
    "emotion": ("emotion.lexicon",),
}

# What a model card says of the run, with its type
FACTS: Mapping[str, type] = {"stage.name": str, "seed": int, "synthetic": bool, "data.train_labels": str}


@dataclass(frozen=True)
class PolicySettings:
    """A policy's settings as its checkpoint has them.

    Attributes:
        checkpoint: The file, or the folder that was exported.
        origin: The file that has the settings; None where none does, as for imported weights.
        tree: ``model``, ``data``, ``prompt`` and ``emotion`` with the keys that belong to a policy, as plain values.
        places: By key of :data:`PLACES`, as they were in training.
        facts: By key of :data:`FACTS`.
    """

    checkpoint: Path
    origin: Path | None
    tree: Mapping[str, Any]
    places: Mapping[str, str | None]
    facts: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return _select(self.tree, key) is not _ABSENT

    def __getitem__(self, key: str) -> Any:
        """Return the value of a dotted key, None where training had none."""
        return value_at(self.tree, key)


_ABSENT = object()  # tells a key that is missing from one that is null


def settings_of_checkpoint(path: str | Path) -> PolicySettings:
    """Read a policy's settings from its checkpoint, or from a folder that ``export`` wrote.

    They are empty for imported weights without any, and where the checkpoint is missing, which loading it will say.

    Raises:
        CheckpointError: A setting is not a plain value of its type, or unknown to this version.
    """
    path = Path(path)
    if path.is_dir():
        return _settings_of_folder(path)
    config: Any = read_checkpoint(path, mmap=True).get("config") if path.is_file() else None
    return _settings(config, path, path) if config else PolicySettings(path, None, {}, {}, {})


def lay_over(
    config: DictConfig,
    settings: PolicySettings,
    overrides: Sequence[str] | None = None,
    *,
    questions: Collection[str] = QUESTIONS,
) -> tuple[DictConfig, list[str]]:
    """Return a composed configuration under a policy's settings.

    Args:
        config: Composed; it is not changed.
        settings: Of the policy's checkpoint; keys that they do not have keep the value of ``config``.
        overrides: The user's, as ``key=value``; None asks Hydra, which knows them in its own jobs only.
        questions: Keys of :data:`QUESTIONS` that may be overridden.

    Returns:
        The resolved configuration, and a sentence for each question that was asked, such as ``evaluated with text of
        video, audio, text``.

    Raises:
        CheckpointError: An override contradicts the settings; names the key, both values and the remedy.
    """
    plain = resolved(config)
    overrides = given_overrides() if overrides is None else overrides
    kept: dict[str, Any] = {}
    notes = []
    for key in _explicit_keys(overrides, plain, settings):
        here = value_at(plain, key)
        if same(key, settings[key], here):
            continue
        if not _is_of_this_machine(key, settings[key], here):
            if key not in questions or not _may_ask(key, settings, here):
                raise CheckpointError(contradiction(settings, key, here))
            notes.append(_note(key, settings[key], here))
        kept[key] = here
    laid = OmegaConf.create(_without_other_family(plain, settings))
    for group, values in settings.tree.items():
        for name, value in values.items():
            if f"{group}.{name}" != "data.questions":  # which training alone reads
                OmegaConf.update(laid, f"{group}.{name}", value, merge=False, force_add=True)
    for key, value in [*kept.items(), *_places(plain, settings, overrides).items()]:
        OmegaConf.update(laid, key, value, merge=False, force_add=True)
    return laid, notes


def _without_other_family(plain: dict[str, Any], settings: PolicySettings) -> dict[str, Any]:
    """Leave out the keys of ``model`` that only another family than the policy's has."""
    trained = settings.tree.get("model") or {}
    if not trained or family_of(trained) is family_of(plain["model"]):
        return plain
    kept = {key: value for key, value in plain["model"].items() if key in trained or key not in MODEL_KEYS}
    return {**plain, "model": kept}


def same(key: str, trained: Any, here: Any) -> bool:
    """Return whether two values of a key mean the same; mappings may leave out nulls, and modalities have no order."""
    if key.endswith(".modalities"):
        return set(trained or ()) == set(here or ())
    if isinstance(trained, Mapping) and isinstance(here, Mapping):
        return not differing_keys(key, trained, here)
    if isinstance(trained, list | tuple) and isinstance(here, list | tuple):
        return list(trained) == list(here)
    return bool(trained == here)


def differing_keys(prefix: str, trained: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys below ``prefix`` in which two mappings differ, except for what depends on the machine."""
    keys = []
    for name in dict.fromkeys((*trained, *here)):
        key, before, now = f"{prefix}.{name}", trained.get(name), here.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            keys += differing_keys(key, before, now)
        elif not same(key, before, now) and not _is_of_this_machine(key, before, now):
            keys.append(key)
    return keys


def contradiction(settings: PolicySettings, key: str, here: Any) -> str:
    """Name the key, its values in training and here, and what to give instead."""
    before = settings[key]
    told = f"{settings.checkpoint} was trained with {key}={shown(before)}, here it is {shown(here)}: give"
    return f"{told} {remedy(settings, key)}, as {settings.origin} has it"


def remedy(settings: PolicySettings, key: str) -> str:
    """Return the override that gives a key its value of training."""
    if key in NAMED_BY["prompt"] and isinstance(choice := settings["prompt.name"], str):
        return f"prompt={choice}"
    return f"{key}={shown(settings[key])}"


def shown(value: Any) -> str:
    """Return a value as an override writes it."""
    return json.dumps(value, ensure_ascii=False)


@cache
def media_keys() -> tuple[str, ...]:
    """Return the keys of ``data`` that belong to a policy: how its clips are read."""
    return tuple(field.name for field in fields(MediaSettings))


@cache
def _prompt_types() -> dict[str, type]:
    """Return the type of each key of ``prompt``, by the files of ``configs/prompt``."""
    items = ((key, value) for key, value, choice in config_items() if choice.startswith("prompt="))
    return {key.removeprefix("prompt."): type(value) for key, value in items}


def _settings(config: Any, checkpoint: Path, origin: Path) -> PolicySettings:
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{origin}: its configuration is a {type(config).__name__}, not a mapping")
    parts = {group: config.get(group) or {} for group in ("model", "data", "prompt", "emotion", "stage")}
    for group, part in parts.items():
        if not isinstance(part, Mapping):
            raise CheckpointError(f"{origin}: {group} is a {type(part).__name__}, not a mapping")
    model, data = parts["model"], parts["data"]
    check_known(model, (*MODEL_KEYS, *NOT_MODEL, "_target_"), "model", origin)
    check_known(parts["prompt"], _prompt_types(), "prompt", origin)
    media = {key: plain_value(data[key], f"data.{key}", origin) for key in media_keys() if key in data}
    read_media(media, origin)
    tree: dict[str, dict[str, Any]] = {
        "model": {key: plain_value(model[key], f"model.{key}", origin) for key in MODEL_KEYS if key in model},
        "data": media,
        "prompt": {
            key: _of_type(value, _prompt_types()[key], f"prompt.{key}", origin)
            for key, value in parts["prompt"].items()
        },
        "emotion": {},
    }
    if isinstance(questions := data.get("questions"), list):
        tree["data"]["questions"] = [_of_type(kind, str, "data.questions", origin) for kind in questions]
    if "lexicon" in parts["emotion"]:
        tree["emotion"] = {"lexicon": _of_type(parts["emotion"]["lexicon"], str, "emotion.lexicon", origin)}
    places = {}
    for key in PLACES:
        place = _select(config, key)
        if place is not _ABSENT:
            places[key] = None if place is None else _of_type(place, str, key, origin)
    facts = {
        key: plain_value(value, key, origin)
        for key, kind in FACTS.items()
        if isinstance(value := _select(config, key), kind)
    }
    return PolicySettings(checkpoint, origin, tree, places, facts)


def _settings_of_folder(folder: Path) -> PolicySettings:
    """Return prompt and media settings of an exported policy; its architecture is read by ``read_exported``."""
    if not (folder / SETTINGS_FILE).is_file():
        return PolicySettings(folder, None, {}, {}, {})
    origin = folder / SETTINGS_FILE
    template = read_exported(folder)["template"]
    prompt = {
        key: _of_type(template[key], _prompt_types()[key], f"template.{key}", origin)
        for key in ("question", "enable_thinking", "kind", "bos_at_inference")
        if key in template
    }
    processor = read_processor(folder)
    media = {key: processor[key] for key in media_keys() if key in processor}
    read_media(media, folder)
    return PolicySettings(folder, origin, {"data": media, "prompt": prompt}, {}, {})


def _of_type(value: Any, kind: type, key: str, origin: Path) -> Any:
    value = plain_value(value, key, origin)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CheckpointError(f"{origin}: {key}={shown(value)} is not of type {kind.__name__}")
    return value


def _explicit_keys(overrides: Sequence[str], plain: Mapping[str, Any], settings: PolicySettings) -> Iterator[str]:
    """Yield keys of settings that the user's overrides set, those that a chosen file names included."""
    for key in dict.fromkeys(key_of(override) for override in overrides):
        if (CONFIGS / key).is_dir():
            yield from (named for named in NAMED_BY.get(key, ()) if _is_setting(named, settings))
            if key == "data" and set(_select(plain, "data.modalities")) < set(settings["data.modalities"] or ()):
                yield "data.modalities"  # a set without sound or text leaves these out
        elif _is_setting(key, settings):
            yield key


def _is_setting(key: str, settings: PolicySettings) -> bool:
    """Return whether training set a key, if only by leaving it out of a part, as of an architecture."""
    return ".".join(key.split(".")[:2]) in settings


def _is_of_this_machine(key: str, trained: Any, here: Any) -> bool:
    last = key.rpartition(".")[2]
    if last == "pretrained" and isinstance(trained, str) and isinstance(here, str):
        return Path(trained).name == Path(here).name  # the same weights in another place
    return last in THIS_MACHINE


def _may_ask(key: str, settings: PolicySettings, here: Any) -> bool:
    if key == "data.modalities":
        return bool(here) and set(here) < set(settings[key])
    return key != "prompt.kind" or here in (settings["data.questions"] or ())


def _note(key: str, trained: Any, here: Any) -> str:
    if key == "data.modalities":
        return f"evaluated with {', '.join(here)} of {', '.join(trained)}"
    return f"evaluated with {key}={shown(here)}, trained with {shown(trained)}"


def _places(plain: Mapping[str, Any], settings: PolicySettings, overrides: Sequence[str]) -> dict[str, Any]:
    """Return where tokenizer, pretrained weights and encoders are; loading compares them by digest.

    An override of the place itself wins. Otherwise the first that exists: where the user says that folders are
    (``paths.root=``), where training had them, where the configuration here has them.
    """
    given = {key_of(override) for override in overrides}
    paths_given = any(key.startswith("paths.") for key in given)
    defaults = {
        "model.tokenizer": "paths.tokenizer",
        "model.weights": "paths.weights",
        "encoders_from": "paths.encoders",
    }
    places: dict[str, Any] = {}
    for key, trained in settings.places.items():
        here = _select(plain, key)
        if key in given and here is not _ABSENT:
            continue
        default = _select(plain, defaults[key])
        if (
            default == f"{_select(plain, 'paths.root')}/{RENDERED_TOKENIZER}"
        ):  # maybe not the policy's: see tokenizer_file
            default = f"{_select(plain, 'paths.data')}/{TOKENIZER}"
        if trained is None or (key == "model.tokenizer" and Path(trained).suffix != ".json"):
            places[key] = trained  # none was used, or a name on the hub or below model.weights
        elif defaults[key] in given:
            places[key] = default
        else:
            candidates = (default, trained) if paths_given else (trained, default)
            places[key] = next((path for path in candidates if Path(str(path)).exists()), candidates[0])
    return places


def value_at(tree: Any, key: str) -> Any:
    """Return the value of a dotted key, None where it is missing."""
    value = _select(tree, key)
    return None if value is _ABSENT else value


def _select(tree: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return _ABSENT
        tree = tree[name]
    return tree
