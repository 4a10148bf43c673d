"""Checks that the policy that a run starts from, or is compared with, was trained for what the run asks of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.policy_config import (
    PolicySettings,
    differing_keys,
    lay_over,
    media_keys,
    remedy,
    settings_of_checkpoint,
    shown,
    value_at,
)
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.build_policy import MODEL_KEYS

log = logging.getLogger(__name__)

PROMPT_KEYS = ("enable_thinking", "kind", "question")


def settle_settings(config: DictConfig) -> DictConfig:
    """Compare a run with the policy that it starts from; a control takes the settings of its GRPO run.

    Raises:
        CheckpointError: An override of the control contradicts the run whose control it is.
        ConfigError: GRPO would start from a policy that was trained with another prompt, other media or another model.
    """
    config = _as_the_matched_run(config)
    if config.init_from is not None and config.stage.name != "pretrain_encoders":
        check_initial_policy(config)
    return config


def _as_the_matched_run(config: DictConfig) -> DictConfig:
    """Let a control read, ask and answer as the GRPO policy does, so that both can be compared."""
    if config.stage.name != "control" or config.match_wall_time is None:
        return config
    folder = Path(config.match_wall_time).parent / "checkpoints"
    best = folder / "best.ckpt"
    settings = settings_of_checkpoint(best if best.is_file() else folder / "last.ckpt")
    if settings.origin is None:
        return config
    laid, _ = lay_over(config, settings, questions=())
    if changed := [change for group in settings.tree for change in _changed(config, laid, group)]:
        log.info("The control takes from %s: %s", settings.checkpoint, ", ".join(changed))
    return laid


def _changed(config: DictConfig, laid: DictConfig, group: str) -> list[str]:
    before, now = resolved(config), resolved(laid)
    return [f"{key}={shown(value_at(now, key))}" for key in differing_keys(group, before[group], now[group])]


def check_initial_policy(config: DictConfig) -> None:
    """Compare the settings of ``init_from`` with the run's.

    Raises:
        ConfigError: They differ and the run has rewards: GRPO only strengthens what a policy already does. SFT, and
            runs with fewer modalities, get a warning.
    """
    settings = settings_of_checkpoint(config.init_from)
    if settings.origin is None:
        log.info("init_from=%s does not say how its policy was trained; nothing is compared", config.init_from)
        return
    plain = resolved(config)
    if lexicon := differing_keys("emotion", settings.tree.get("emotion", {}), plain["emotion"]):
        told = shown(settings["emotion.lexicon"]), shown(plain["emotion"]["lexicon"])
        log.info("%s: init_from was trained with %s, this run scores with %s", lexicon[0], *told)
    modalities, now = settings["data.modalities"], plain["data"]["modalities"]
    if modalities is not None and set(now) < set(modalities):
        fewer = ", ".join(now), ", ".join(modalities)
        log.warning("data.modalities: this run trains with %s, init_from was trained with %s", *fewer)
    keys = _differences(settings, plain)
    if not keys:
        return
    if config.stage.get("rewards") is not None and config.strict_init:
        raise ConfigError(_refusal(settings, keys, plain))
    for key in keys:
        told = shown(settings[key]), shown(value_at(plain, key))
        log.warning("%s: init_from was trained with %s, this run trains with %s", key, *told)


def _differences(settings: PolicySettings, plain: dict[str, Any]) -> list[str]:
    """Return the dotted keys in which the run differs from the initial policy's training, the prompt's first."""
    wanted = {"prompt": PROMPT_KEYS, "data": media_keys(), "model": MODEL_KEYS}
    keys = []
    for group, names in wanted.items():
        trained = {name: settings[f"{group}.{name}"] for name in names if f"{group}.{name}" in settings}
        here = {name: plain[group].get(name) for name in trained if name in plain[group]}
        keys += [key for key in differing_keys(group, trained, here) if not _is_known(key, settings, plain)]
    return keys


def _is_known(key: str, settings: PolicySettings, plain: dict[str, Any]) -> bool:
    """Return whether another value of a key is nothing new to the policy."""
    prompt = plain["prompt"]
    if key == "data.modalities":
        return set(plain["data"]["modalities"]) <= set(settings[key])
    if key == "prompt.question":  # which a published question replaces
        return bool(prompt["kind"])
    return key == "prompt.kind" and prompt["kind"] in (settings["data.questions"] or ())


def _refusal(settings: PolicySettings, keys: list[str], plain: dict[str, Any]) -> str:
    key = keys[0]
    implied = ("prompt.question",) if key == "prompt.enable_thinking" else ()
    remedies = list(dict.fromkeys(remedy(settings, name) for name in keys if name not in implied))
    more = f" (and {len(keys) - 1} more: {', '.join(keys[1:4])})" if len(keys) > 1 else ""
    return (
        f"{key}: init_from={settings.checkpoint} was trained with {shown(settings[key])}, this run would reinforce it "
        f"with {shown(value_at(plain, key))}{more}: give {' '.join(remedies[:4])}, or an init_from that was trained as "
        "this run is, or strict_init=false if that is what you want to try"
    )
