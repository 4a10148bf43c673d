"""What the systems of an evaluation share, each under the settings of its own checkpoint, and where they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.policy_config import differing_keys
from affectgpt_r1.errors import ConfigError


def alike(settings: Mapping[str, DictConfig]) -> list[list[str]]:
    """Group the names of systems that can share a policy and its clips."""
    groups: dict[str, list[str]] = {}
    for name, config in settings.items():
        plain = resolved(config)
        prompt = {key: value for key, value in plain["prompt"].items() if key not in ("name", "max_completion_length")}
        key = json.dumps([plain["model"], plain["data"], prompt, plain["encoders_from"]], sort_keys=True)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def one_lexicon(settings: Mapping[str, DictConfig]) -> str:
    """Return the lexicon that scores all systems, or refuse if they were trained with several."""
    specs = {name: str(config.emotion.lexicon) for name, config in settings.items()}
    if len(set(specs.values())) > 1:
        listed = ", ".join(f"{name} with {spec}" for name, spec in specs.items())
        raise ConfigError(
            f"emotion.lexicon: {listed} were trained; one table needs one lexicon: choose it by emotion.lexicon="
        )
    return next(iter(specs.values()))


def comparison_notes(notes: Mapping[str, Sequence[str]], settings: Mapping[str, DictConfig]) -> list[str]:
    """Say what a reader of the tables must know: questions asked, and settings in which the systems differ."""
    lines = []
    for note in dict.fromkeys(note for own in notes.values() for note in own):
        asked = [name for name, own in notes.items() if note in own]
        lines.append(note if len(asked) == len(notes) else f"{', '.join(asked)}: {note}")
    plain = {name: resolved(config) for name, config in settings.items()}
    first = next(iter(plain.values()))
    keys = [
        key
        for settings_of_system in plain.values()
        for group in ("prompt", "data", "model")
        for key in differing_keys(group, first[group], settings_of_system[group])
    ]
    for key in dict.fromkeys(keys):
        if key != "prompt.name":
            values = (f"{name} {_shown(OmegaConf.select(config, key))}" for name, config in settings.items())
            lines.append(f"{key} differs: {'; '.join(values)}")
    return lines


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, ListConfig) else str(value)
