"""Settings of a released AffectGPT checkpoint, as keys of ``configs/train.yaml``.

Its ``config`` has the sections ``model`` (fusion types, token counts, LoRA), ``datasets`` (``face_or_frame``, the input
mode, and ``label_type``, the question) and ``run``. A file has the layers of every part, whatever its mode reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.fusion import NUM_QUERIES
from affectgpt_r1.policy.questions import QUESTIONS

EVERY = ("video", "audio", "text")


class InputMode(NamedTuple):
    """The parts that have tokens, ``data.visual`` and ``data.modalities`` of a ``face_or_frame``."""

    shown: tuple[str, ...]
    visual: str
    modalities: tuple[str, ...] = EVERY


APART = ("video", "audio")
TOGETHER = (*APART, "multi")
# The published names, as `configs/README.md` tells them. Where one modality is not read, its part stays unused.
INPUT_MODES: Mapping[str, InputMode] = {
    "multiface_audio_face_text": InputMode(TOGETHER, "face"),
    "multiframe_audio_frame_text": InputMode(TOGETHER, "frame"),
    "multiface_audio_face_frame_text": InputMode(TOGETHER, "both"),
    "multiface_text": InputMode(("multi",), "face"),
    "multiframe_text": InputMode(("multi",), "frame"),
    "face": InputMode(APART, "face"),
    "frame": InputMode(APART, "frame"),
    "faceframe": InputMode(APART, "both"),
    "faceonly": InputMode(APART, "face", ("video",)),
    "frameonly": InputMode(APART, "frame", ("video",)),
    "image": InputMode(APART, "image", ("video",)),
    "audioonly": InputMode(APART, "face", ("audio",)),
    "textonly": InputMode(APART, "face", ("text",)),
    "audio_text": InputMode(APART, "face", ("audio", "text")),
    "face_text": InputMode(APART, "face", ("video", "text")),
    "frame_text": InputMode(APART, "frame", ("video", "text")),
}

ALTERNATING = ("description", "ovlabel")  # the questions of `label_type: hybird`, as the released code spells it
# What files of `configs/model` build, by the released codes' names of language model, image and sound encoder
BACKBONES: Mapping[str, tuple[str, str, str]] = {
    "affectgpt_7b": ("Qwen25", "CLIP_VIT_LARGE", "HUBERT_LARGE"),
    "affectgpt_qwen3_8b": ("Qwen3", "CLIP_VIT_LARGE", "HUBERT_LARGE"),
    "light_mer": ("Qwen3_0.6B", "CLIP_VIT_BASE", "HUBERT_BASE"),
}
BACKBONE_KEYS = ("llama_model", "visual_encoder", "acoustic_encoder")
# By the last part of `model.language_model.pretrained`
CHOICES = {
    "Qwen2.5-7B-Instruct": "affectgpt_7b",
    "Qwen3-8B": "affectgpt_qwen3_8b",
    "Qwen3-0.6B": "light_mer",
}
LORA_LAYER = re.compile(r"\.(\w+)\.lora_A\.default\.weight$")
LORA_ALPHA, LORA_DROPOUT = 32, 0.05  # the same for every rank in the released code


def published_settings(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    mode: str | None,
    origin: str,
    choice: str = "affectgpt_7b",
) -> dict[str, Any]:
    """Return the dotted keys that a released checkpoint determines, and their values.

    Args:
        tensors: By published name.
        config: The file's own; kinds of fusion and LoRA's rank are also seen from the tensors.
        mode: The input mode, for a file that does not name one.
        origin: Name of the file in errors.
        choice: Key of :data:`BACKBONES`, the model that is to take it.

    Raises:
        CheckpointError: The file names another backbone, contradicts itself or ``mode``, or was trained in a way that
            is not computed here.
    """
    model = _section(config, "model")
    _check_backbones(model, choice, origin)
    chosen = INPUT_MODES[_input_mode(config, mode, origin)]
    kinds = {part: _kind(part, tensors, model, origin) for part in NUM_QUERIES}
    for part in chosen.shown:
        _check_tokens(part, kinds[part], model, origin)
    settings: dict[str, Any] = {
        "model.fusion": {part: kind if part in chosen.shown else "none" for part, kind in kinds.items()},
        "model.lora": _lora(tensors, model, origin),
        # As the released codes load them; encoders are float32 there.
        "model.language_model.dtype": "float16" if choice == "affectgpt_7b" else "bfloat16",
        "model.video_encoder.dtype": "float32",
        "data.visual": chosen.visual,
        "data.modalities": list(chosen.modalities),
        "prompt.bos_at_inference": False,
    }
    frames = _section(_section(model, "vis_processor"), "train").get("n_frms")
    if isinstance(frames, int):
        settings["data.num_frames"] = frames
    return settings | _question(config)


def _check_backbones(model: Mapping[str, Any], choice: str, origin: str) -> None:
    told = {key: model.get(key, name) for key, name in zip(BACKBONE_KEYS, BACKBONES[choice], strict=True)}
    for key, name in zip(BACKBONE_KEYS, BACKBONES[choice], strict=True):
        if told[key] != name:
            fitting = [other for other, names in BACKBONES.items() if names == tuple(told.values())]
            remedy = f"give model={fitting[0]}" if fitting else f"model={choice} builds {name}"
            raise CheckpointError(f"{origin} was trained with {key}: {told[key]}; {remedy}")


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key)
    return section if isinstance(section, Mapping) else {}


def _datasets(config: Mapping[str, Any], key: str) -> set[str]:
    """Return the values that a file's datasets have under a key."""
    sets = [section for section in _section(config, "datasets").values() if isinstance(section, Mapping)]
    return {section[key] for section in sets if isinstance(section.get(key), str)}


def _input_mode(config: Mapping[str, Any], mode: str | None, origin: str) -> str:
    named = _datasets(config, "face_or_frame")
    if mode is not None and named - {mode}:
        raise CheckpointError(f"--mode {mode}: {origin} was trained with face_or_frame: {', '.join(sorted(named))}")
    if not named and mode is None:
        raise CheckpointError(
            f"{origin} does not name its input mode (datasets.*.face_or_frame); give --mode, one of "
            f"{', '.join(INPUT_MODES)}"
        )
    if len(named) > 1:
        raise CheckpointError(f"{origin} was trained in several input modes at once: {', '.join(sorted(named))}")
    chosen = mode or next(iter(named))
    if chosen not in INPUT_MODES:
        raise CheckpointError(f"{origin}: input mode {chosen} is unknown; known are {', '.join(INPUT_MODES)}")
    return chosen


def _kind(part: str, tensors: Iterable[str], model: Mapping[str, Any], origin: str) -> str:
    """Return how a part is pooled, by the layers that are there; the file's config must agree."""
    names = {name.removeprefix("module.").partition(".")[0] for name in tensors}
    attention = {"video": "video_attention_mlp", "audio": "audio_attention_mlp", "multi": "attention_mlp"}[part]
    kind = "qformer" if f"{part}_query_tokens" in names else "attention" if attention in names else "mean"
    told = model.get(f"{part}_fusion_type", kind)
    if told != kind:
        raise CheckpointError(f"{origin}: its config says {part}_fusion_type: {told}, but its layers are {kind}'s")
    if part == "multi" and kind == "mean":
        raise CheckpointError(f"{origin} lacks the layers of its pre-fusion: {attention} or multi_query_tokens")
    return kind


def _check_tokens(part: str, kind: str, model: Mapping[str, Any], origin: str) -> None:
    here = NUM_QUERIES[part] if kind == "qformer" else 1
    told = model.get(f"num_{part}_query_token", here)
    if told != here:
        raise CheckpointError(
            f"{origin}: num_{part}_query_token: {told}; with {kind} fusion this package gives {part} {here}"
        )


def _lora(tensors: Mapping[str, Tensor], model: Mapping[str, Any], origin: str) -> dict[str, Any]:
    layers = {name: match[1] for name in tensors if (match := LORA_LAYER.search(name))}
    if model.get("frozen_llm") or not layers:
        raise CheckpointError(f"{origin} holds no adapters of its language model; such a policy is not built here")
    ranks = {tensors[name].shape[0] if tensors[name].ndim == 2 else 0 for name in layers}
    rank = model.get("lora_r", min(ranks))
    if list(ranks) != [rank]:
        raise CheckpointError(f"{origin}: its config says lora_r: {rank}, but its adapters have {sorted(ranks)}")
    order = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    modules = sorted(set(layers.values()), key=lambda name: order.index(name) if name in order else len(order))
    return {"r": rank, "alpha": LORA_ALPHA, "dropout": LORA_DROPOUT, "target_modules": modules}


def _question(config: Mapping[str, Any]) -> dict[str, Any]:
    kinds = _datasets(config, "label_type")
    if kinds == {"hybird"}:
        return {"data.questions": list(ALTERNATING)}
    known = [kind for kind in QUESTIONS if kind in kinds]
    if len(known) != len(kinds) or not known:
        return {}
    own = {} if "ovlabel" in known else {"prompt.kind": known[0]}
    return {"data.questions": known, **own}
