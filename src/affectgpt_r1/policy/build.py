"""Build a policy from a config, small or large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from affectgpt_r1.policy.backbone import add_lora, build_language_model, build_towers, load_tokenizer
from affectgpt_r1.policy.encoders import WaveformNormalization
from affectgpt_r1.policy.fusion import Fusion
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.prompts import PromptTemplate


def build_policy(
    *,
    tokenizer: str,
    language_model: Mapping[str, Any],
    video_tower: Mapping[str, Any],
    audio_tower: Mapping[str, Any],
    waveform_normalization: WaveformNormalization,
    fusion_hidden_size: int,
    lora: Mapping[str, Any] | None,
    template: PromptTemplate,
    fusion: str | Mapping[str, str] = "attention",
    share_prompt: bool = True,
) -> MultimodalPolicy:
    """A policy with fresh weights; checkpoints are loaded into it afterwards.

    Args:
        tokenizer: Path of a ``tokenizer.json``.
        language_model: Keywords of ``Qwen2Config``.
        video_tower: Keywords of ``CLIPVisionConfig``.
        audio_tower: Keywords of ``HubertConfig``.
        waveform_normalization: See :class:`~affectgpt_r1.policy.encoders.AudioTower`.
        fusion_hidden_size: Hidden size of the pre-fusion.
        lora: Keywords of :func:`~affectgpt_r1.policy.backbone.add_lora`; None trains the whole language model.
        template: Question and target format.
        fusion: See :class:`~affectgpt_r1.policy.fusion.Fusion`.
        share_prompt: See :class:`~affectgpt_r1.policy.policy.MultimodalPolicy`.
    """
    loaded = load_tokenizer(tokenizer)
    towers = build_towers(video_tower, audio_tower, waveform_normalization)
    model = build_language_model(len(loaded), language_model)
    sizes = towers.video.feature_size, towers.audio.feature_size, fusion_hidden_size, model.config.hidden_size
    media_fusion = Fusion(*sizes, fusion, image=template.visual == "image")
    template = dataclasses.replace(template, pre_fusion=media_fusion.multi is not None)
    if lora is not None:
        add_lora(model, **lora)
    return MultimodalPolicy(model, towers, media_fusion, loaded, template, share_prompt=share_prompt)
