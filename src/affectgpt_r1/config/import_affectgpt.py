"""Make a released AffectGPT checkpoint a run's folder, with the settings that its file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import CONFIGS, resolved
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.io.files import replacing, write_text
from affectgpt_r1.policy.build_policy import ENGINE_KEYS, build_modules
from affectgpt_r1.policy.checkpoint import POLICY_PREFIX, check_tensors
from affectgpt_r1.policy.published_names import our_name, our_names
from affectgpt_r1.policy.published_settings import CHOICES, published_settings
from affectgpt_r1.policy.published_weights import Published, read_published

STORED = ("experiment_name", "model", "data", "prompt", "emotion", "stage", "seed", "synthetic", "encoders_from")
"""Sections of the configuration that say what a policy is, as a run's own checkpoint holds them."""


def import_affectgpt(config: DictConfig, checkpoint: Path, output: Path, mode: str | None = None) -> str:
    """Write a run's folder with the file's weights and settings; the model is built on the meta device only.

    Args:
        config: The composed ``configs/train.yaml`` with ``experiment=affectgpt/published``; it takes the file's
            settings.
        checkpoint: The released file; it is read as weights and plain values alone, and refused if that fails.
        output: The folder; ``checkpoints/best.ckpt`` in it must not exist.
        mode: The input mode, for a file that does not name one.

    Returns:
        What was written and under which settings, for the user.

    Raises:
        CheckpointError: The file cannot be read so, does not fit the model, or contradicts an override; or the folder
            holds a checkpoint or cannot be written.
    """
    best = output / "checkpoints" / "best.ckpt"
    if best.exists():
        raise CheckpointError(f"{best} exists; choose another --output")
    published = read_published(checkpoint)
    named = Path(str(config.model.language_model.pretrained)).name
    choice = CHOICES.get(named, "affectgpt_7b")
    settings = published_settings(published.tensors, published.config, mode, str(checkpoint), choice)
    _settle(config, settings, checkpoint)
    state = _our_state(config, published, checkpoint)
    _write(config, state, {"file": checkpoint.name, "epoch": published.epoch}, output, best)
    unused = {
        name.removeprefix("module.").partition(".")[0] for name in published.tensors if our_name(name) not in state
    }
    told = ", ".join(f"{key}={_shown(value)}" for key, value in settings.items())
    left_out = f" Without {', '.join(sorted(unused))}, which this policy does not use." if unused else ""
    return f"{best}: {len(state)} tensors, {told}.{left_out} Answer with --checkpoint {best}, or init_from={best}"


def _settle(config: DictConfig, settings: Mapping[str, Any], origin: Path) -> None:
    """Lay a file's settings over a configuration; an override that contradicts one is refused, but for types."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        standard = compose("train", overrides=["experiment=affectgpt/published"])
    for key, value in settings.items():
        here, default = OmegaConf.select(config, key), OmegaConf.select(standard, key)
        if here != default and here != value:
            if key.endswith(".dtype"):
                continue
            raise CheckpointError(f"{key}={_shown(here)}: {origin} was trained with {_shown(value)}; leave it out")
        OmegaConf.update(config, key, value, merge=False, force_add=True)


def _our_state(config: DictConfig, published: Published, origin: Path) -> dict[str, Any]:
    """Return the file's weights by our names, after their shapes were checked against the model's."""
    model = resolved(config)["model"]
    modules = {key: value for key, value in model.items() if key not in ("_target_", "tokenizer", *ENGINE_KEYS)}
    with torch.device("meta"):
        language_model, _, fusion = build_modules(vocab_size=None, image=config.data.visual == "image", **modules)
    trained = {
        f"{part}.{name}": param
        for part, module in (("language_model", language_model), ("fusion", fusion))
        for name, param in module.named_parameters()
        if param.requires_grad
    }
    state = our_names(published.tensors, trained)
    check_tensors(state, trained, str(origin))
    return state


def _write(config: DictConfig, state: Mapping[str, Any], imported: Mapping[str, Any], output: Path, best: Path) -> None:
    """Write the checkpoint, and the configuration where Hydra writes a run's."""
    stored = {key: value for key, value in resolved(config).items() if key in STORED}
    tensors = {f"{POLICY_PREFIX}{name}": tensor.float() for name, tensor in state.items()}
    content = {"state_dict": tensors, "digests": {}, "reference": {}, "config": stored, "imported": dict(imported)}
    elsewhere = "choose another --output"
    write_text(output / ".hydra" / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(stored)), elsewhere=elsewhere)
    with replacing(best, elsewhere=elsewhere) as partial, partial.open("wb") as file:
        torch.save(content, file)


def _shown(value: Any) -> str:
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return str(plain).replace("'", "")
