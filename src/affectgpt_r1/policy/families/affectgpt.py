"""AffectGPT (Lian et al. 2025): CLIP, HuBERT, pooled media tokens, pre-fusion, and a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from affectgpt_r1.policy.backbone import add_lora, build_encoders, build_language_model, check_lora
from affectgpt_r1.policy.encoders import Encoders, WaveformNormalization
from affectgpt_r1.policy.families.base import Family
from affectgpt_r1.policy.fusion import Fusion
from affectgpt_r1.policy.prompts import PromptTemplate


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


FAMILY = Family(
    template=PromptTemplate,
    build_modules=build_modules,
    parts={"video_encoder": "encoders.video.model", "audio_encoder": "encoders.audio.model"},
)
