"""HumanOmni and R1-Omni (Zhao et al. 2025): SigLIP's patches, Whisper, a gate by the question, ChatML prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import (
    add_lora,
    build_language_model,
    build_patch_encoders,
    build_question_encoder,
    check_lora,
    load_question_tokenizer,
)
from affectgpt_r1.policy.encoders import Encoders
from affectgpt_r1.policy.families.base import Family
from affectgpt_r1.policy.humanomni_encoders import POOLED, PatchEncoder, SoundEncoder
from affectgpt_r1.policy.humanomni_fusion import HumanOmniFusion
from affectgpt_r1.policy.prompts import AUDIO_TOKEN, BOS_TOKEN, EOS_TOKEN, FRAME_TOKEN, PromptTemplate
from affectgpt_r1.types import Modality

SYSTEM = f"{BOS_TOKEN}system\nYou are a helpful assistant.{EOS_TOKEN}\n"
USER = f"{BOS_TOKEN}user\n"
ASSISTANT = f"{EOS_TOKEN}\n{BOS_TOKEN}assistant\n"
VIDEO = f"<vi_start>{FRAME_TOKEN}<vi_end>\n"  # not tokens of their own, but text
AUDIO = f"<au_start>{AUDIO_TOKEN}<au_end>\n"


@dataclass(frozen=True)
class HumanOmniTemplate(PromptTemplate):
    """ChatML, the media before the question, and an answer in tags without spaces inside.

    Placeholders are tokens of their own, so that the text between them is tokenised piece by piece, as published.
    """

    closing: ClassVar[str] = f"{EOS_TOKEN}\n"  # the published loss covers the newline, too
    stop_tokens: ClassVar[tuple[str, ...]] = ("<|endoftext|>",)
    opens_with_bos: ClassVar[bool] = False
    think_template: ClassVar[str] = "<think>{reason}</think>\n"
    answer_template: ClassVar[str] = "<answer>{labels}</answer>"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.visual in ("both", "image"):
            raise ConfigError(f"data.visual={self.visual}: HumanOmni reads frame, or face crops in their place")

    def placeholders(self) -> dict[str, str]:
        """See :class:`~affectgpt_r1.policy.prompts.PromptTemplate`."""
        return {FRAME_TOKEN: "video", AUDIO_TOKEN: "audio"}

    def wording(self, modalities: Sequence[Modality], said: str, question: str) -> str:
        """See :class:`~affectgpt_r1.policy.prompts.PromptTemplate`; the sentence of what is said is ours."""
        media = (VIDEO if "video" in modalities else "") + (AUDIO if "audio" in modalities else "")
        return f"{SYSTEM}{USER}{media}{said}{question}{ASSISTANT}"

    def phrases(self) -> list[str]:
        """See :class:`~affectgpt_r1.policy.prompts.PromptTemplate`."""
        return [self.question]


def build_modules(
    *,
    vocab_size: int | None,
    language_model: Mapping[str, Any],
    video_encoder: Mapping[str, Any],
    audio_encoder: Mapping[str, Any],
    question_encoder: Mapping[str, Any],
    gate_hidden_size: int,
    num_frames: int,
    train_question_encoder: bool,
    lora: Mapping[str, Any] | None,
    weights: str | None = None,
    gradient_checkpointing: bool = False,
    image: bool = False,
) -> tuple[Any, Encoders, HumanOmniFusion]:
    """Build language model, encoders and fusion.

    Args:
        vocab_size: Size of the tokenizer, where ``language_model`` names no ``vocab_size``.
        language_model: See :func:`~affectgpt_r1.policy.backbone.build_language_model`.
        video_encoder: See :func:`~affectgpt_r1.policy.backbone.build_patch_encoders`.
        audio_encoder: See :func:`~affectgpt_r1.policy.backbone.build_patch_encoders`.
        question_encoder: See :func:`~affectgpt_r1.policy.backbone.build_question_encoder`, and its ``tokenizer``.
        gate_hidden_size: Hidden size of the gate between the three readings of the frames.
        num_frames: Frames of a clip.
        train_question_encoder: Train BERT, too.
        lora: Keywords of :func:`~affectgpt_r1.policy.backbone.add_lora`; None trains the whole language model.
        weights: Folder whose subfolders hold pretrained weights.
        gradient_checkpointing: Compute activations again in the backward pass; slower, and needs less memory.
        image: Must be False.
    """
    if lora is not None:
        check_lora(lora)
    siglip, whisper = build_patch_encoders(video_encoder, audio_encoder, weights)
    bert_settings = {key: value for key, value in question_encoder.items() if key != "tokenizer"}
    bert = build_question_encoder(bert_settings, weights)
    bert.requires_grad_(train_question_encoder)
    model = build_language_model(vocab_size, language_model, weights, checkpointing=gradient_checkpointing)
    is_counted = torch.get_default_device().type == "meta"
    fusion = HumanOmniFusion(
        siglip.config.hidden_size,
        whisper.config.d_model,
        model.config.hidden_size,
        bert,
        None if is_counted else load_question_tokenizer(question_encoder["tokenizer"], weights),
        gate_size=gate_hidden_size,
        num_frames=num_frames,
        grid=siglip.config.image_size // siglip.config.patch_size,
        num_sounds=whisper.config.max_source_positions // POOLED,
    )
    if lora is not None:
        add_lora(model, **lora)
    return model, Encoders(PatchEncoder(siglip), SoundEncoder(whisper)), fusion


FAMILY = Family(
    template=HumanOmniTemplate,
    build_modules=build_modules,
    parts={
        "video_encoder": "encoders.video.model",
        "audio_encoder": "encoders.audio.model",
        "question_encoder": "fusion.bert",
    },
)
