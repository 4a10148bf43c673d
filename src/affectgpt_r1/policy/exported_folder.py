"""Files of a folder that ``affectgpt-r1 export`` wrote, and the settings in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.frozen_weights import weights_digest

SETTINGS_FILE = "affectgpt_r1.json"
WEIGHTS_FILE = "multimodal.safetensors"
ADAPTER_FOLDER = "adapter"
ADAPTER_FILE = f"{ADAPTER_FOLDER}/adapter_model.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"
GENERATION_FILE = "generation_config.json"
UNUSED = ("ctc_loss_reduction",)
"""Keys of an encoder's architecture that nothing reads here."""
TOWERS = ("video_tower", "audio_tower")


def is_exported(path: str | Path) -> bool:
    """Whether a path is a folder that was exported."""
    return (Path(path) / SETTINGS_FILE).is_file()


def read_exported(folder: Path) -> dict[str, Any]:
    """``kind``, ``model``, ``template`` and, of newer folders, ``digests`` of an exported policy.

    The ``model`` is given as it is built here: a ``merged`` folder is the language model's own ``pretrained``, and
    without adapters; towers are filled from the folder afterwards.

    Raises:
        CheckpointError: The folder was not exported, or its settings cannot be read.
    """
    if not is_exported(folder):
        raise CheckpointError(f"{folder} has no {SETTINGS_FILE}: it was not written by `affectgpt-r1 export`")
    settings = read_settings(folder, SETTINGS_FILE)
    try:
        model, merged = dict(settings["model"]), settings["kind"] == "merged"
        towers = {
            part: {**{key: one for key, one in model[part].items() if key not in UNUSED}, "pretrained": None}
            for part in TOWERS
        }
        language_model = dict(model["language_model"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / SETTINGS_FILE} lacks {error}; export it again") from error
    model.update(towers, tokenizer=str(folder / "tokenizer.json"))
    if merged:
        language_model.pop("source_sha256", None)  # of the weights before training
        model.update(lora=None, weights=None, language_model={**language_model, "pretrained": str(folder)})
    return {**settings, "model": model}


def read_multimodal(folder: Path) -> dict[str, Tensor]:
    """The weights of ``fusion.`` and ``towers.``.

    Raises:
        CheckpointError: They cannot be read, or are not what was exported.
    """
    return read_tensors(folder, WEIGHTS_FILE)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file of an exported folder.

    Raises:
        CheckpointError: It cannot be read, or has not the digest that the folder's settings name.
    """
    try:
        tensors = load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / name} cannot be read ({error}); export it again") from error
    digest = read_settings(folder, SETTINGS_FILE).get("digests", {}).get(name)
    if digest is not None and digest != weights_digest(tensors):
        raise CheckpointError(f"{folder / name} is damaged: not the weights that were exported; export it again")
    return tensors


def check_plain(value: Any, folder: Path) -> None:
    """Check that settings are data, before Hydra sees them.

    Raises:
        CheckpointError: They hold a ``_target_`` or a like key, or an interpolation.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).startswith("_"):
                raise CheckpointError(f"{folder / SETTINGS_FILE} holds {key}, which is not a setting of a policy")
            check_plain(inner, folder)
    elif isinstance(value, list):
        for inner in value:
            check_plain(inner, folder)
    elif isinstance(value, str) and "${" in value:
        raise CheckpointError(f"{folder / SETTINGS_FILE} holds {value!r}, an interpolation, which is not followed")


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """A file of settings.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        content = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not as `affectgpt-r1 export` wrote it ({error}); export it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name} does not hold settings; export it again")
    return content
