"""The published prompt, and the target text that goes with it.

AffectGPT names its input modes by what they hold (``multiface_audio_face_text`` and its frame twin); leaving a modality
out of a clip leaves its sentence out of the prompt. A published quirk is not followed: ``audio_text``, ``face_text``
and ``frame_text`` lack ``###Human:``. Another is a switch: inference lacks the BOS token that training has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.questions import QUESTIONS
from affectgpt_r1.policy.questions import answer as published_answer
from affectgpt_r1.types import EmotionSet, Modality, Visual

MULTI_TOKEN = "<MultiHere>"
AUDIO_TOKEN = "<AudioHere>"
FACE_TOKEN = "<FaceHere>"
FRAME_TOKEN = "<FrameHere>"
IMAGE_TOKEN = "<ImageHere>"
MEDIA_TOKENS: tuple[str, ...] = (IMAGE_TOKEN, AUDIO_TOKEN, FRAME_TOKEN, FACE_TOKEN, MULTI_TOKEN)
BOS_TOKEN = "<|im_start|>"
EOS_TOKEN = "<|im_end|>"
TURN = "###"
"""Opens a speaker's turn, and ends an answer."""

OPENING = f"{TURN}Human: "
MULTI_SENTENCE = f"The audio and video merged info is: <Multi>{MULTI_TOKEN}</Multi>. "
AUDIO_SENTENCE = f"The audio content is as follows: <Audio>{AUDIO_TOKEN}</Audio>. "
FACE_SENTENCE = (
    "Meanwhile, we uniformly sample raw frames from the video and extract faces from these frames: "
    f"<Video>{FACE_TOKEN}</Video>. "
)
FRAME_SENTENCE = f"Meanwhile, we uniformly sample raw frames from the video: <Video>{FRAME_TOKEN}</Video>. "
IMAGE_SENTENCE = f"The image content is as follows: <Image>{IMAGE_TOKEN}</Image>. "
VISUAL_SENTENCES: Mapping[str, str] = {
    "face": FACE_SENTENCE,
    "frame": FRAME_SENTENCE,
    "both": FACE_SENTENCE + FRAME_SENTENCE,
    "image": IMAGE_SENTENCE,
}
SUBTITLE_OPENING = "The subtitle of this video is: <Subtitle>"
SUBTITLE_CLOSING = "</Subtitle>. "
REQUEST = "Now, please answer my question based on all the provided information. "
ASSISTANT = f" {TURN}Assistant: "

ANSWER_OPENING = "<answer>"
THINK_TEMPLATE = "<think> {reason} </think> "
ANSWER_TEMPLATE = "<answer> {labels} </answer>"


@dataclass(frozen=True)
class PromptTemplate:
    """A question, and whether its answer opens with reasoning.

    Attributes:
        question: What the character's emotions are asked with.
        thinks: The target holds ``<think> reason </think>`` before the answer (``prompt=think``).
        visual: What stands for the video: ``face`` crops, whole ``frame``s, ``both``, or one still ``image``.
        pre_fusion: The prompt also holds the pre-fused tokens of audio and video.
        kind: The published question whose sentence answers ``question``; ``""`` answers in tags.
        bos_at_inference: Generation opens the prompt with the BOS token, as training does; off as published.
        force_answer: The model's turn begins with an opened answer, so that it cannot reason first: both prompt modes
            can then be compared on equal terms. For evaluation; training refuses it.
    """

    question: str
    thinks: bool = False
    visual: Visual = "face"
    force_answer: bool = False
    pre_fusion: bool = True
    bos_at_inference: bool = True
    kind: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("", *QUESTIONS):
            raise ConfigError(f"prompt.kind={self.kind} is unknown; choose among {', '.join(QUESTIONS)}")

    @property
    def prefill(self) -> str:
        """What the model's turn begins with, as if the model had said it; ``""`` where it begins freely."""
        return ANSWER_OPENING if self.force_answer else ""

    @property
    def expects_reasoning(self) -> bool:
        """Whether a well-formed completion reasons before it answers."""
        return self.thinks and not self.force_answer

    def prompt(self, subtitle: str, modalities: Sequence[Modality], kind: str = "") -> str:
        """The prompt of one clip, with a placeholder token for each media embedding.

        Args:
            subtitle: What is said; text in it that looks like a placeholder or a turn is broken up.
            modalities: What the clip offers.
            kind: A key of :data:`~affectgpt_r1.policy.questions.QUESTIONS`; ``""`` asks ``question``.

        Returns:
            The text up to and including ``###Assistant: ``.
        """
        has_audio, has_video = "audio" in modalities, "video" in modalities
        sentences = [
            MULTI_SENTENCE if has_audio and has_video and self.pre_fusion and self.visual != "image" else "",
            AUDIO_SENTENCE if has_audio else "",
            VISUAL_SENTENCES[self.visual] if has_video else "",
            f"{SUBTITLE_OPENING}{_harmless(subtitle)}{SUBTITLE_CLOSING}" if "text" in modalities else "",
        ]
        question = QUESTIONS[kind] if kind else self.question
        return f"{OPENING}{''.join(sentences)}{REQUEST}{question}{ASSISTANT}"

    def target(self, labels: EmotionSet, reason: str, kind: str = "") -> str:
        """The answer that SFT teaches, without the closing ``###``; one inside a reason would end it early."""
        if kind or self.kind:
            return _harmless(published_answer(kind or self.kind, labels, reason))
        answer = ANSWER_TEMPLATE.format(labels=_harmless(", ".join(labels)))
        return THINK_TEMPLATE.format(reason=_harmless(reason)) + answer if self.thinks else answer

    def phrases(self) -> list[str]:
        """The fixed parts of prompt and target, longest first; a small tokenizer may take each as one token."""
        parts = {OPENING, REQUEST, self.question, ASSISTANT, SUBTITLE_OPENING, SUBTITLE_CLOSING}
        for sentence in (MULTI_SENTENCE, AUDIO_SENTENCE, FACE_SENTENCE, FRAME_SENTENCE):
            for token in MEDIA_TOKENS:
                if token in sentence:
                    parts.update(sentence.split(token))
        parts.update(("<think>", "</think>", ANSWER_OPENING, "</answer>"))
        return sorted((part.strip() for part in parts), key=lambda phrase: (-len(phrase), phrase))


def _harmless(text: str) -> str:
    for token in (*MEDIA_TOKENS, BOS_TOKEN, EOS_TOKEN):
        text = text.replace(token, f"({token[1:-1]})")  # without brackets, <<FaceHere>> would leave a placeholder
    return re.sub(f"{TURN}+", "#", text)
