"""Pretrained weights from a local folder or the hub: safetensors only, and no code that comes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from affectgpt_r1.errors import ConfigError

NOT_ARCHITECTURE = ("pretrained", "dtype", "image_mean", "image_std")
"""Keys of a part that are no keywords of its transformers configuration."""
UNUSED_WEIGHTS = ("masked_spec_embed",)
"""Weights that only a training tower would read; a published file may lack them."""


def build_part(
    part: str,
    model_class: Any,
    config_class: Callable[..., Any],
    settings: Mapping[str, Any],
    weights: str | Path | None = None,
) -> Any:
    """One transformers model: from pretrained weights, or fresh where none are named or on the meta device.

    Args:
        part: Its key below ``model``.
        model_class: A transformers model class.
        config_class: Makes its configuration.
        settings: Architecture, and ``pretrained``, a folder or hub id, and ``dtype``.
        weights: Folder that is searched for a subfolder named after the last part of ``pretrained``.

    Raises:
        ConfigError: The weights cannot be had, are incomplete or of another architecture.
    """
    dtype = getattr(torch, settings.get("dtype", "float32"))
    architecture = {key: value for key, value in settings.items() if key not in NOT_ARCHITECTURE}
    pretrained = settings.get("pretrained")
    if pretrained is None or torch.get_default_device().type == "meta":
        config = config_class(**architecture)
        build = getattr(model_class, "from_config", model_class)
        return build(config).to(dtype)
    source = local_weights(pretrained, weights)
    try:
        model, report = model_class.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
        )
    except OSError as error:
        raise ConfigError(weights_missing(part, pretrained, weights, error)) from error
    lacking = sorted(name for name in report["missing_keys"] if not name.endswith(UNUSED_WEIGHTS))
    if lacking:
        raise ConfigError(f"model.{part}: {source} lacks {len(lacking)} weights, such as {lacking[0]}; fetch it again")
    for key, value in architecture.items():
        found = getattr(model.config, key, None)
        if value is not None and (list(found) if isinstance(found, tuple | list) else found) != value:
            raise ConfigError(
                f"model.{part}.{key}={value}, but the weights in {source} have {found}; correct the config"
            )
    return model


def local_weights(pretrained: str, weights: str | Path | None) -> str:
    """Where ``pretrained`` is loaded from: a folder, the subfolder of ``weights`` of its name, or else the hub."""
    named = None if weights is None else Path(weights) / Path(pretrained).name
    return str(named) if named is not None and named.is_dir() else pretrained


def weights_missing(part: str, pretrained: str, weights: str | Path | None, error: Exception) -> str:
    """What to do when ``pretrained`` cannot be loaded."""
    folder = Path(weights) / Path(pretrained).name if weights is not None else Path(pretrained)
    return (
        f"{part}: {pretrained} cannot be loaded ({str(error).splitlines()[0]}). Fill {folder} with its config.json, "
        f"tokenizer files and *.safetensors: `hf download {pretrained} --local-dir {folder}` where there is a network; "
        f"if it has a pytorch_model.bin only, `affectgpt-r1 convert-weights {folder}`"
    )
