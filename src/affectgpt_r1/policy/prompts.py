"""The published prompt, and the target text that goes with it.

AffectGPT names its input modes by what they hold (``multiface_audio_face_text`` and its frame twin); here what a clip
offers, ``data.visual`` and the parts of ``model.fusion`` choose the same sentences. A published quirk is not followed:
``audio_text``, ``face_text`` and ``frame_text`` lack ``###Human:``. Another is a switch: inference lacks the BOS token
that training has. Targets end at ``###``: the EOS that the published training teaches after it is never sampled, since
generation stops before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy import questions
from affectgpt_r1.policy.questions import QUESTIONS
from affectgpt_r1.types import Annotations, ClipBatch, EmotionSet, Modality, Visual

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
FACES = (
    f"We uniformly sample raw frames from the video and extract faces from these frames: <Video>{FACE_TOKEN}</Video>. "
)
FRAMES = f"We uniformly sample raw frames from the video: <Video>{FRAME_TOKEN}</Video>. "
IMAGE_SENTENCE = f"The image content is as follows: <Image>{IMAGE_TOKEN}</Image>. "
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
        enable_thinking: The target holds ``<think> reason </think>`` before the answer (``prompt=think``).
        visual: What stands for the video: ``face`` crops, whole ``frame``s, ``both``, or one still ``image``.
        shown: The parts that have tokens, and so a sentence: ``video``, ``audio``, and ``multi`` of both, pre-fused.
        kind: The published question that is asked in place of ``question``, and answered by its sentence; ``""``
            answers in tags.
        bos_at_inference: Generation opens the prompt with the BOS token, as training does; off as published.
        force_answer: The model's turn begins with an opened answer, so that it cannot reason first: both prompt modes
            can then be compared on equal terms. For evaluation; training refuses it.
    """

    question: str
    enable_thinking: bool = False
    visual: Visual = "face"
    force_answer: bool = False
    shown: tuple[str, ...] = ("video", "audio", "multi")
    bos_at_inference: bool = True
    kind: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("", *QUESTIONS):
            raise ConfigError(f"prompt.kind={self.kind} is unknown; choose among {', '.join(QUESTIONS)}")
        if self.visual == "both" and "video" not in self.shown:
            raise ConfigError(
                "data.visual=both: model.fusion merges one of them with audio and shows no other; take face or frame"
            )

    @property
    def prefill(self) -> str:
        """What the model's turn begins with, as if the model had said it; ``""`` where it begins freely."""
        return ANSWER_OPENING if self.force_answer else ""

    @property
    def expects_reasoning(self) -> bool:
        """Whether a well-formed completion reasons before it answers."""
        return self.enable_thinking and not self.force_answer

    def prompts(self, batch: ClipBatch) -> list[str]:
        """The prompt of every clip; see :meth:`prompt`."""
        return [
            self.prompt(subtitle, modalities, *asked)
            for subtitle, modalities, asked in zip(batch.subtitles, batch.modalities, _asked(batch), strict=True)
        ]

    def targets(self, batch: ClipBatch) -> list[str]:
        """The answer that SFT teaches for every clip; see :meth:`target`."""
        return [
            self.target(labels, reason, kind, annotations)
            for labels, (kind, reason, annotations) in zip(batch.labels, _asked(batch), strict=True)
        ]

    def prompt(
        self,
        subtitle: str,
        modalities: Sequence[Modality],
        kind: str = "",
        reason: str = "",
        annotations: Annotations | None = None,
    ) -> str:
        """The prompt of one clip, with a placeholder token for each media embedding.

        Args:
            subtitle: What is said; text in it that looks like a placeholder or a turn is broken up.
            modalities: What the clip offers.
            kind: A key of :data:`~affectgpt_r1.policy.questions.QUESTIONS`; ``""`` asks the template's own.
            reason: The clip's description.
            annotations: What the question names beside it.

        Returns:
            The text up to and including ``###Assistant: ``.

        Raises:
            ConfigError: The clip lacks what the question asks about.
        """
        said = f"{SUBTITLE_OPENING}{_harmless(subtitle)}{SUBTITLE_CLOSING}" if "text" in modalities else ""
        kind = kind or self.kind
        question = _harmless(questions.question(kind, reason, annotations)) if kind else self.question
        return f"{OPENING}{self._media(modalities)}{said}{REQUEST}{question}{ASSISTANT}"

    def _media(self, modalities: Sequence[Modality]) -> str:
        """The sentences with placeholders, in the published order of each input mode."""
        merged = {"video", "audio"} <= set(modalities) and "multi" in self.shown and self.visual != "image"
        sentences = [MULTI_SENTENCE] if merged else []
        if "audio" in modalities and "audio" in self.shown:
            sentences.append(AUDIO_SENTENCE)
        if "video" in modalities and self.visual == "image":
            sentences.append(IMAGE_SENTENCE)
        elif "video" in modalities and "video" in self.shown:
            sentences.extend(self._seen(follows=bool(sentences), merged=merged))
        return "".join(sentences)

    def _seen(self, *, follows: bool, merged: bool) -> list[str]:
        adverb = "Meanwhile" if follows else ""
        if self.visual == "both" and merged:
            return [_opened(adverb, FACES), _opened(adverb, FRAMES)]
        if self.visual == "both":
            return [_opened(adverb, FRAMES), _opened("Additionally", FACES)]
        return [_opened(adverb, FACES if self.visual == "face" else FRAMES)]

    def target(self, labels: EmotionSet, reason: str, kind: str = "", annotations: Annotations | None = None) -> str:
        """The answer that SFT teaches, without the closing ``###``; one inside a reason would end it early.

        Raises:
            ConfigError: The clip does not answer the question.
        """
        if kind or self.kind:
            return _harmless(questions.answer(kind or self.kind, labels, reason, annotations))
        answer = ANSWER_TEMPLATE.format(labels=_harmless(", ".join(labels)))
        return THINK_TEMPLATE.format(reason=_harmless(reason)) + answer if self.enable_thinking else answer

    def phrases(self) -> list[str]:
        """The fixed parts of prompt and target, longest first; a small tokenizer may take each as one token."""
        parts = {OPENING, REQUEST, self.question, ASSISTANT, SUBTITLE_OPENING, SUBTITLE_CLOSING}
        seen = [_opened(adverb, one) for adverb in ("", "Meanwhile", "Additionally") for one in (FACES, FRAMES)]
        for sentence in (MULTI_SENTENCE, AUDIO_SENTENCE, IMAGE_SENTENCE, *seen):
            for token in MEDIA_TOKENS:
                if token in sentence:
                    parts.update(sentence.split(token))
        parts.update(("<think>", "</think>", ANSWER_OPENING, "</answer>"))
        return sorted((part.strip() for part in parts), key=lambda phrase: (-len(phrase), phrase))


def _asked(batch: ClipBatch) -> list[tuple[str, str, Annotations]]:
    """Of every clip the kind of question, the description and the annotations."""
    kinds = batch.questions or ("",) * len(batch)
    return list(zip(kinds, batch.reasons, batch.annotations or ({},) * len(batch), strict=True))


def _opened(adverb: str, sentence: str) -> str:
    """A sentence that opens with an adverb, as those do that follow another."""
    return f"{adverb}, {sentence[0].lower()}{sentence[1:]}" if adverb else sentence


def _harmless(text: str) -> str:
    for token in (*MEDIA_TOKENS, BOS_TOKEN, EOS_TOKEN):
        text = text.replace(token, f"({token[1:-1]})")  # without brackets, <<FaceHere>> would leave a placeholder
    return re.sub(f"{TURN}+", "#", text)
