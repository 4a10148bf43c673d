"""A trained policy as a Hugging Face folder, and back without Lightning.

The folder holds the language model (or its adapter), ``multimodal.safetensors`` with fusion and encoders, the
tokenizer, the prompt and the processor's settings, generation defaults and a model card::

    policy = load_exported("exported")
    policy.generate(batch, 1, Sampling(temperature=0.0, max_completion_length=64)).texts
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from affectgpt_r1.engine.served import peft_name
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.backbone import merge_lora
from affectgpt_r1.policy.build_policy import build_policy, family_of, has_sizes
from affectgpt_r1.policy.frozen_weights import base_weights, check_base, weights_digest
from affectgpt_r1.policy.hf_folder import (
    ADAPTER_FILE,
    ADAPTER_FOLDER,
    GENERATION_FILE,
    PROCESSOR_FILE,
    QUESTION_TOKENIZER_FILE,
    SETTINGS_FILE,
    UNUSED,
    WEIGHTS_FILE,
    file_digest,
    read_exported,
    read_multimodal,
    read_settings,
    read_shapes,
    read_tensors,
)
from affectgpt_r1.policy.integrity import check_finite
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.types import Sampling

__all__ = [
    "SETTINGS_FILE",
    "WEIGHTS_FILE",
    "ExportKind",
    "export_policy",
    "load_exported",
    "load_exported_weights",
    "read_processor",
]

ExportKind: TypeAlias = Literal["adapter", "merged"]

BASE = "language model"  # digest of the language model without adapters
MOST_NEW_TOKENS = 1 << 17
# What every exported folder says of its media; newer ones say more
PROCESSOR_KEYS: Mapping[str, type] = {"modalities": list, "num_frames": int, "image_size": int, "num_windows": int}
# Keys of a transformers configuration that say where weights come from, or how to train what is not used here
NO_ARCHITECTURE = ("architectures", "dtype", "model_type", "transformers_version", "_name_or_path", *UNUSED)


def export_policy(
    policy: MultimodalPolicy,
    model: Mapping[str, Any],
    folder: Path,
    *,
    kind: ExportKind,
    processor: Mapping[str, Any],
    max_completion_length: int,
    card: str,
    drawn: Sampling | None = None,
) -> None:
    """Write a policy.

    Args:
        policy: With ``merged`` its adapters are merged into the language model for good.
        model: The keywords that it was built with, ``template`` left out.
        folder: Written to.
        kind: ``adapter`` needs the base model to be loaded; ``merged`` does not.
        processor: Frames, image size, windows and their length.
        max_completion_length: Default limit of generation.
        card: The model card.
        drawn: How the policy samples its answers; None decodes greedily.

    Raises:
        CheckpointError: The policy has no adapter to export.
    """
    adapted = model.get("lora") is not None
    if kind == "adapter" and not (adapted and model["language_model"].get("pretrained")):
        raise CheckpointError("An adapter needs a pretrained model below it: export this one with --kind merged")
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "merged":
        if adapted:
            merge_lora(policy.language_model)
            tied = policy.language_model.config.tie_word_embeddings  # merging may have untied them
            model = {**model, "language_model": {**model["language_model"], "tie_word_embeddings": tied}}
        policy.language_model.save_pretrained(folder)
    else:
        _write_adapter(policy, model, folder / ADAPTER_FOLDER)
    tokenizer_files = [Path(name) for name in policy.tokenizer.save_pretrained(folder)]
    if (question_tokenizer := getattr(policy.fusion, "question_tokenizer", None)) is not None:
        tokenizer_files.append(folder / QUESTION_TOKENIZER_FILE)
        question_tokenizer.backend_tokenizer.save(str(tokenizer_files[-1]))
    encoders = _write_multimodal(policy, model, folder / WEIGHTS_FILE)
    files = (WEIGHTS_FILE, ADAPTER_FILE) if kind == "adapter" else (WEIGHTS_FILE,)
    digests = {name: weights_digest(load_file(folder / name)) for name in files}
    digests[BASE] = weights_digest(base_weights(policy.language_model))
    # A flipped bit in a vocabulary gives other tokens, and answers that look right.
    digests |= {path.name: file_digest(path) for path in tokenizer_files if path.is_file()}
    settings = {
        "kind": kind,
        "model": {**model, **encoders},
        "template": dataclasses.asdict(policy.template),
        "digests": digests,
    }
    _write(folder / SETTINGS_FILE, settings)
    _write(folder / PROCESSOR_FILE, dict(processor))
    generation = {
        "do_sample": drawn is not None,
        "max_new_tokens": max_completion_length,
        "eos_token_id": list(policy.special_tokens.stop_ids),
        "pad_token_id": policy.tokenizer.pad_token_id,
    }
    if drawn is not None:
        names = ("temperature", "top_p", "top_k")
        generation |= {name: getattr(drawn, name) for name in names} | {"seed": drawn.seed}
    _write(folder / GENERATION_FILE, generation)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_multimodal(policy: MultimodalPolicy, model: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Write fusion and encoders, and return the encoders' full architectures."""
    weights = {f"fusion.{name}": tensor for name, tensor in policy.fusion.state_dict().items()}
    weights |= {f"encoders.{name}": tensor for name, tensor in policy.encoders.state_dict().items()}
    save_file(_stored(weights), path)
    return {
        part: {**_architecture(policy.get_submodule(place)), **model[part]}
        for part, place in family_of(model).parts.items()
    }


def _architecture(encoder: Any) -> dict[str, Any]:
    """Return an encoder's architecture as its weights state it: the run's configuration need not name all of it."""
    config: dict[str, Any] = encoder.config.to_diff_dict()
    return {key: value for key, value in config.items() if key not in NO_ARCHITECTURE}


def _write_adapter(policy: MultimodalPolicy, model: Mapping[str, Any], folder: Path) -> None:
    """Write the adapter as peft does."""
    folder.mkdir(exist_ok=True)
    adapter = {name: tensor for name, tensor in policy.language_model.state_dict().items() if "lora_" in name}
    save_file(_stored({peft_name(name): tensor for name, tensor in adapter.items()}), folder / Path(ADAPTER_FILE).name)
    _write(folder / "adapter_config.json", _adapter_config(model))


def load_exported(folder: str | Path) -> MultimodalPolicy:
    """Return the policy that :func:`export_policy` wrote, in evaluation mode.

    An ``adapter`` folder loads its base model as ``language_model.pretrained`` says.
    """
    folder = Path(folder)
    settings = read_exported(folder)
    build = partial(build_policy, **settings["model"], template=PromptTemplate(**settings["template"]))
    check_exported_sizes(build, folder)
    policy = build()
    load_exported_weights(policy, folder)
    return policy.eval()


def check_exported_sizes(build: Callable[[], MultimodalPolicy], folder: Path) -> None:
    """Compare the sizes in an exported folder's settings with its tensors, before memory is allocated."""
    if not has_sizes(read_exported(folder)["model"]):
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        policy = build()
    shapes = read_shapes(folder / WEIGHTS_FILE)
    for name, tensor in policy.state_dict().items():
        if not name.startswith("language_model.") and shapes.get(name) != tuple(tensor.shape):
            raise CheckpointError(f"{folder}: {name} does not fit the exported settings; export it again")


def load_exported_weights(policy: MultimodalPolicy, folder: Path) -> None:
    """Load fusion, encoders and, of an ``adapter`` folder, adapters into a policy that was built as the folder says.

    Its language model is loaded already, and is compared. Adapters that the folder does not have stay as initialised:
    training may add some to a ``merged`` one.
    """
    settings = read_exported(folder)
    state, adapted = read_multimodal(folder), settings["kind"] == "adapter"
    check_base(settings.get("digests", {}).get(BASE), policy.language_model, str(folder))
    if adapted:
        adapter = read_tensors(folder, ADAPTER_FILE)
        names = {peft_name(name): name for name in policy.language_model.state_dict()}
        state |= {f"language_model.{names.get(name, name)}": tensor for name, tensor in adapter.items()}
    expected = {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith("language_model.")}
    expected |= {name: tensor for name, tensor in policy.state_dict().items() if adapted and "lora_" in name}
    for name in sorted(expected.keys() ^ state.keys()):
        raise CheckpointError(f"{folder}: {name} does not fit the exported settings; export it again")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(f"{folder}: {name} does not fit the exported settings; export it again")
    check_finite(state, folder)
    policy.load_state_dict(state, strict=False)


def read_sampling(folder: Path) -> Sampling:
    """Return how an exported policy answers: greedily, or sampled as its run did."""
    generation = read_settings(folder, GENERATION_FILE, {"max_new_tokens": int})
    longest = generation["max_new_tokens"]
    if not 0 < longest <= MOST_NEW_TOKENS:
        raise CheckpointError(
            f"{folder / GENERATION_FILE}: max_new_tokens={longest} is not from 1 to {MOST_NEW_TOKENS}"
        )
    if not generation.get("do_sample"):
        return Sampling(temperature=0.0, max_completion_length=longest)
    drawn = read_settings(folder, GENERATION_FILE, {"temperature": float, "top_p": float, "top_k": int, "seed": int})
    names = ("temperature", "top_p", "top_k", "seed")
    return Sampling(max_completion_length=longest, **{name: drawn[name] for name in names})


def read_processor(folder: Path) -> dict[str, Any]:
    """Return how an exported policy's clips are read."""
    return read_settings(folder, PROCESSOR_FILE, PROCESSOR_KEYS)


def _adapter_config(model: Mapping[str, Any]) -> dict[str, Any]:
    lora = model["lora"]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model["language_model"].get("pretrained"),
        "r": lora["r"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora["dropout"],
        "target_modules": list(lora["target_modules"]),
        "inference_mode": True,
    }


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
