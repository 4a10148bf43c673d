"""Files of a folder that ``affectgpt-r1 export`` wrote, and the settings in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.build_policy import MODEL_KEYS, NOT_MODEL, family_of
from affectgpt_r1.policy.frozen_weights import weights_digest
from affectgpt_r1.policy.pretrained import NOT_ARCHITECTURE, check_pretrained_folder
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.untrusted_values import check_fields, check_known, plain_value, read_mapping

SETTINGS_FILE = "affectgpt_r1.json"
WEIGHTS_FILE = "multimodal.safetensors"
ADAPTER_FOLDER = "adapter"
ADAPTER_FILE = f"{ADAPTER_FOLDER}/adapter_model.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"
GENERATION_FILE = "generation_config.json"
UNUSED = ("ctc_loss_reduction",)  # keys of an encoder's architecture that nothing reads here
QUESTION_TOKENIZER_FILE = "question_tokenizer.json"  # of families that encode the question by itself
# Text in `config.json` that loading does not follow
WRITTEN_BY_TRANSFORMERS = ("architectures", "transformers_version", "_name_or_path")
MOST_TOKENIZER_BYTES = 64 << 20
AGAIN = "export it again"


def is_exported(path: str | Path) -> bool:
    """Return whether a path is a folder that was exported."""
    return (Path(path) / SETTINGS_FILE).is_file()


def read_exported(folder: Path) -> dict[str, Any]:
    """Return ``kind``, ``model``, ``template`` and, of newer folders, ``digests`` of an exported policy.

    ``model`` is as it is built here: a ``merged`` folder is the language model's own ``pretrained``, without adapters;
    encoders are loaded from the folder afterwards. The folder may come from anyone.

    Raises:
        CheckpointError: The folder was not exported, or it has what ``export`` does not write.
    """
    if not is_exported(folder):
        raise CheckpointError(f"{folder} has no {SETTINGS_FILE}: it was not written by `affectgpt-r1 export`")
    origin = folder / SETTINGS_FILE
    _check_files(folder)
    settings = read_mapping(origin, AGAIN)
    for name in ("model", "template", *(("digests",) if "digests" in settings else ())):
        if not isinstance(settings.get(name), Mapping):
            raise CheckpointError(f"{origin} lacks {name}; {AGAIN}")
        settings[name] = plain_value(settings[name], name, origin)
    _check_tokenizer(folder, settings.get("digests", {}))
    model, merged = settings["model"], settings.get("kind") == "merged"
    if "video_tower" in model:
        raise CheckpointError(
            f"{origin} was written before its settings were renamed (model.video_tower is model.video_encoder now): "
            "train the policy again, or use the version that exported it"
        )
    if settings.get("kind") not in ("merged", "adapter"):
        raise CheckpointError(
            f"{origin}: kind={str(settings.get('kind'))[:80]!r} is neither merged nor adapter; {AGAIN}"
        )
    check_fields(settings["template"], PromptTemplate, "template", origin)
    if "question" not in settings["template"]:
        raise CheckpointError(f"{origin} lacks template.question; {AGAIN}")
    check_known(model, (*MODEL_KEYS, *NOT_MODEL), "model", origin)
    encoder_parts = family_of(model).parts
    for part in (*encoder_parts, "language_model"):
        if not isinstance(model.get(part), Mapping):
            raise CheckpointError(f"{origin} lacks model.{part}, a mapping; {AGAIN}")
    encoders = {
        part: {**{key: value for key, value in model[part].items() if key not in UNUSED}, "pretrained": None}
        for part in encoder_parts
    }
    if (folder / QUESTION_TOKENIZER_FILE).is_file() and "question_encoder" in encoders:
        encoders["question_encoder"]["tokenizer"] = str(folder / QUESTION_TOKENIZER_FILE)
    language_model = dict(model["language_model"])
    model = {**model, **encoders, "tokenizer": str(folder / "tokenizer.json")}
    if merged:
        _check_language_model(folder, language_model)
        language_model.pop("source_sha256", None)  # of the weights before training
        model.update(lora=None, weights=None, language_model={**language_model, "pretrained": str(folder)})
    return {**settings, "model": model}


def _check_files(folder: Path) -> None:
    """Refuse links out of a folder, and what transformers would follow to other files."""
    home = folder.resolve()
    for path in (*folder.iterdir(), *(folder / ADAPTER_FOLDER).glob("*")):
        if not path.resolve().is_relative_to(home):
            raise CheckpointError(f"{path} is a link out of the folder; copy the folder with what it links to (cp -rL)")
        if not path.is_file() and not path.is_dir():
            raise CheckpointError(f"{path} is not a file; {AGAIN}")
    check_pretrained_folder(folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file() or tokenizer.stat().st_size > MOST_TOKENIZER_BYTES:
        raise CheckpointError(f"{tokenizer} is missing, or larger than {MOST_TOKENIZER_BYTES} bytes; {AGAIN}")


def file_digest(path: Path) -> str:
    """Return ``sha256:`` and the digest of a file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _check_tokenizer(folder: Path, digests: Mapping[str, Any]) -> None:
    """Compare the tokenizer's files with their digests; folders of earlier versions have none."""
    for name, digest in digests.items():
        if not str(digest).startswith("sha256:"):
            continue  # of weights, which are compared where they are read
        path = folder / name
        if Path(name).name != name or not path.is_file() or file_digest(path) != digest:
            raise CheckpointError(f"{path} is damaged: not the file that was exported; {AGAIN}")


def _check_language_model(folder: Path, language_model: Mapping[str, Any]) -> None:
    """Compare what transformers will build with what the settings say, before anything is allocated."""
    path = folder / "config.json"
    config = {key: value for key, value in read_mapping(path, AGAIN).items() if key not in WRITTEN_BY_TRANSFORMERS}
    config = plain_value(config, "model.language_model", path)
    for key, value in {"model_type": "qwen2", **language_model}.items():
        if key not in NOT_ARCHITECTURE and value is not None and key in config and config[key] != value:
            raise CheckpointError(f"{path}: {key}={config[key]}, but {folder / SETTINGS_FILE} has {value}; {AGAIN}")


def read_multimodal(folder: Path) -> dict[str, Tensor]:
    """Return the weights of ``fusion.`` and ``encoders.``."""
    return read_tensors(folder, WEIGHTS_FILE)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of an exported folder.

    Raises:
        CheckpointError: It cannot be read, or does not have the digest that the folder's settings name.
    """
    try:
        tensors = load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / name} cannot be read ({error}); {AGAIN}") from error
    digest = (read_mapping(folder / SETTINGS_FILE, AGAIN).get("digests") or {}).get(name)
    if digest is not None and digest != weights_digest(tensors):
        raise CheckpointError(f"{folder / name} is damaged: not the weights that were exported; {AGAIN}")
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors, by its header alone."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {AGAIN}") from error


def read_settings(folder: Path, name: str, wanted: Mapping[str, type]) -> dict[str, Any]:
    """Return a file of settings, which are plain values.

    ``wanted`` are the keys that it must have, and their types.
    """
    path = folder / name
    settings = {key: plain_value(value, key, path) for key, value in read_mapping(path, AGAIN).items()}
    for key, kind in wanted.items():
        value = settings.get(key)
        if not isinstance(value, int if kind is float else kind) and not (kind is float and isinstance(value, float)):
            raise CheckpointError(f"{path}: {key}={json.dumps(value)[:80]} is not of type {kind.__name__}; {AGAIN}")
    return settings
