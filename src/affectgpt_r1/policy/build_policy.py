"""Build a policy from a config, small or large."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from affectgpt_r1.engine.base import Engine
from affectgpt_r1.engine.reference import ReferenceEngine
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import (
    add_lora,
    build_encoders,
    build_language_model,
    check_lora,
    check_vocabulary,
    load_tokenizer,
)
from affectgpt_r1.policy.encoders import Encoders, WaveformNormalization
from affectgpt_r1.policy.fusion import Fusion
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.prompts import PromptTemplate


def build_policy(
    *,
    tokenizer: str,
    template: PromptTemplate,
    engine: str = "fast",
    share_prefix: bool = True,
    weights: str | None = None,
    **modules: Any,
) -> MultimodalPolicy:
    """Build a policy with fresh or pretrained weights; checkpoints are loaded into it afterwards.

    Args:
        tokenizer: A ``tokenizer.json``, a model folder or a hub id.
        template: Question and target format.
        engine: See :func:`build_engine`.
        share_prefix: See :func:`build_engine`.
        weights: Folder whose subfolders hold pretrained weights.
        modules: The other keywords of :func:`build_modules`.
    """
    loaded = load_tokenizer(tokenizer, weights)
    language_model, encoders, fusion = build_modules(
        vocab_size=len(loaded), weights=weights, image=template.visual == "image", **modules
    )
    check_vocabulary(loaded, language_model)
    template = dataclasses.replace(template, shown=fusion.shown)
    runner = build_engine(engine, language_model, share_prefix=share_prefix)
    return MultimodalPolicy(language_model, encoders, fusion, loaded, template, runner)


def build_engine(name: str, model: Any, *, share_prefix: bool = True) -> Engine:
    """Build what runs the language model.

    Args:
        name: ``reference`` or ``fast``.
        model: A transformers causal language model.
        share_prefix: Run a prompt once per clip in the update, not once per completion; of the fast engine.

    Raises:
        ConfigError: The name is unknown.
    """
    if name == "reference":
        return ReferenceEngine(model)
    if name == "fast":
        from affectgpt_r1.engine.fast import FastEngine  # here, so that the reference engine runs without its files

        return FastEngine(model, share_prefix=share_prefix)
    raise ConfigError(f"model.engine={name} is unknown: choose fast or reference")


def build_modules(
    *,
    vocab_size: int | None,
    language_model: Mapping[str, Any],
    video_encoder: Mapping[str, Any],
    audio_encoder: Mapping[str, Any],
    waveform_normalization: WaveformNormalization,
    fusion_hidden_size: int,
    lora: Mapping[str, Any] | None,
    fusion: str | Mapping[str, str] = "attention",
    weights: str | None = None,
    gradient_checkpointing: bool = False,
    image: bool = False,
) -> tuple[Any, Encoders, Fusion]:
    """Build language model, encoders and fusion.

    Args:
        vocab_size: Size of the tokenizer, where ``language_model`` names no ``vocab_size``.
        language_model: See :func:`~affectgpt_r1.policy.backbone.build_language_model`.
        video_encoder: See :func:`~affectgpt_r1.policy.backbone.build_encoders`.
        audio_encoder: See :func:`~affectgpt_r1.policy.backbone.build_encoders`.
        waveform_normalization: See :class:`~affectgpt_r1.policy.encoders.AudioEncoder`.
        fusion_hidden_size: Hidden size of the pre-fusion.
        lora: Keywords of :func:`~affectgpt_r1.policy.backbone.add_lora`; None trains the whole language model.
        fusion: See :class:`~affectgpt_r1.policy.fusion.Fusion`.
        weights: Folder whose subfolders hold pretrained weights.
        gradient_checkpointing: Compute activations again in the backward pass; slower, and needs less memory.
        image: Read one still image in place of a video.
    """
    if lora is not None:
        check_lora(lora)
    encoders = build_encoders(video_encoder, audio_encoder, waveform_normalization, weights)
    model = build_language_model(vocab_size, language_model, weights, checkpointing=gradient_checkpointing)
    sizes = encoders.video.feature_size, encoders.audio.feature_size, fusion_hidden_size, model.config.hidden_size
    media_fusion = Fusion(*sizes, fusion, image=image)
    if lora is not None:
        add_lora(model, **lora)
    return model, encoders, media_fusion


def has_sizes(model: Mapping[str, Any]) -> bool:
    """Return whether a policy can be built without its weights: pretrained parts need not name their sizes."""
    parts = [model[part] for part in ("language_model", "video_encoder", "audio_encoder")]
    return all(part.get("pretrained") is None or "hidden_size" in part for part in parts)


# Arguments of the policy's builders that do not describe the policy.
NOT_MODEL = (
    *("tokenizer", "weights", "template", "vocab_size", "image"),
    *("engine", "share_prefix", "gradient_checkpointing"),
)

# Keys of ``model`` that belong to a policy: the arguments of its builders.
MODEL_KEYS = tuple(
    name
    for name in dict.fromkeys(
        (*inspect.signature(build_policy).parameters, *inspect.signature(build_modules).parameters)
    )
    if name not in (*NOT_MODEL, "modules")
)
