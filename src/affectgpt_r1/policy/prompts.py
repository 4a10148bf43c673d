"""AffectGPT's prompt, and the target text that goes with it; other model families word theirs in a subclass.

AffectGPT names its input modes by what they hold, such as ``multiface_audio_face_text``; here the modalities of a clip,
``data.visual`` and the parts of ``model.fusion`` choose the same sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
# Opens a speaker's turn, and ends an answer. The published training also teaches the EOS after it, which is never
# sampled, since generation stops before.
TURN = "###"

OPENING = f"{TURN}Human: "  # which the published `audio_text`, `face_text` and `frame_text` lack
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
    """A question, and whether its answer opens with reasoning, in AffectGPT's wording.

    The class variables, :meth:`placeholders` and :meth:`wording` are what another model family overrides.
    """

    closing: ClassVar[str] = TURN  # ends an answer; generation stops at its first token
    stop_tokens: ClassVar[tuple[str, ...]] = ()  # stop generation too, where the tokenizer has them, as EOS does
    opens_with_bos: ClassVar[bool] = True
    think_template: ClassVar[str] = THINK_TEMPLATE
    answer_template: ClassVar[str] = ANSWER_TEMPLATE

    question: str
    enable_thinking: bool = False  # the target has `<think> reason </think>` before the answer (`prompt=think`)
    visual: Visual = "face"  # crops of the face, full frames, both, or one still image
    force_answer: bool = False  # see `prefill`: compares both prompt modes on equal terms; training refuses it
    shown: tuple[str, ...] = ("video", "audio", "multi")  # the parts that have tokens, and so a sentence
    bos_at_inference: bool = True  # as in training; the published inference lacks the BOS token
    kind: str = ""  # the published question that replaces `question`, answered by its sentence; "" answers in tags

    def __post_init__(self) -> None:
        if self.kind not in ("", *QUESTIONS):
            raise ConfigError(f"prompt.kind={self.kind} is unknown; choose among {', '.join(QUESTIONS)}")
        if self.visual == "both" and "video" not in self.shown:
            raise ConfigError(
                "data.visual=both: model.fusion merges one of them with audio and shows only that; take face or frame"
            )

    @property
    def prefill(self) -> str:
        """Return the text with which the model's turn begins; ``""`` where it begins freely."""
        return ANSWER_OPENING if self.force_answer else ""

    @property
    def expects_reasoning(self) -> bool:
        """Return whether a well-formed completion reasons before it answers."""
        return self.enable_thinking and not self.force_answer

    def prompts(self, batch: ClipBatch) -> list[str]:
        """Return the prompt of every clip."""
        return [
            self.prompt(subtitle, modalities, *asked)
            for subtitle, modalities, asked in zip(batch.subtitles, batch.modalities, _asked(batch), strict=True)
        ]

    def targets(self, batch: ClipBatch) -> list[str]:
        """Return the answer that SFT teaches for every clip."""
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
        """Return the prompt of one clip up to ``###Assistant: ``, with a placeholder token per media embedding.

        Args:
            subtitle: The words spoken; text in it that looks like a placeholder or a turn is broken up.
            modalities: Those of the clip.
            kind: A key of :data:`~affectgpt_r1.policy.questions.QUESTIONS`; ``""`` asks the template's own.
            reason: The clip's description.
            annotations: Further facts that the question names.

        Raises:
            ConfigError: The clip lacks what the question asks about.
        """
        said = f"{SUBTITLE_OPENING}{_harmless(subtitle)}{SUBTITLE_CLOSING}" if "text" in modalities else ""
        return self.wording(modalities, said, self._instruction(kind, reason, annotations))

    def wording(self, modalities: Sequence[Modality], said: str, question: str) -> str:
        """Return the prompt of a clip's modalities, the sentence of what is said (``""`` for none) and a question."""
        return f"{OPENING}{self._media(modalities)}{said}{REQUEST}{question}{ASSISTANT}"

    def placeholders(self) -> dict[str, str]:
        """Return the name of the media by placeholder token."""
        return {
            FACE_TOKEN: "video",
            FRAME_TOKEN: "frame" if self.visual == "both" else "video",
            IMAGE_TOKEN: "image",
            AUDIO_TOKEN: "audio",
            MULTI_TOKEN: "multi",
        }

    def instructions(self, batch: ClipBatch) -> list[str]:
        """Return the question of every clip without what is around it in the prompt."""
        return [self._instruction(*asked) for asked in _asked(batch)]

    def _instruction(self, kind: str, reason: str, annotations: Annotations | None) -> str:
        kind = kind or self.kind
        return _harmless(questions.question(kind, reason, annotations)) if kind else self.question

    def _media(self, modalities: Sequence[Modality]) -> str:
        """Return the sentences with placeholders, in the published order of each input mode."""
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
        """Return the answer that SFT teaches, without its ``closing``; one inside a reason would end it early."""
        if kind or self.kind:
            return _harmless(questions.answer(kind or self.kind, labels, reason, annotations))
        answer = self.answer_template.format(labels=_harmless(", ".join(labels)))
        return self.think_template.format(reason=_harmless(reason)) + answer if self.enable_thinking else answer

    def phrases(self) -> list[str]:
        """Return the fixed parts of prompt and target, longest first; a small tokenizer may take each as one token."""
        parts = {OPENING, REQUEST, self.question, ASSISTANT, SUBTITLE_OPENING, SUBTITLE_CLOSING}
        seen = [_opened(adverb, shown) for adverb in ("", "Meanwhile", "Additionally") for shown in (FACES, FRAMES)]
        for sentence in (MULTI_SENTENCE, AUDIO_SENTENCE, IMAGE_SENTENCE, *seen):
            for token in MEDIA_TOKENS:
                if token in sentence:
                    parts.update(sentence.split(token))
        parts.update(("<think>", "</think>", ANSWER_OPENING, "</answer>"))
        return sorted((part.strip() for part in parts), key=lambda phrase: (-len(phrase), phrase))


def _asked(batch: ClipBatch) -> list[tuple[str, str, Annotations]]:
    """Return the kind of question, the description and the annotations of every clip."""
    kinds = batch.questions or ("",) * len(batch)
    return list(zip(kinds, batch.reasons, batch.annotations or ({},) * len(batch), strict=True))


def _opened(adverb: str, sentence: str) -> str:
    """Return a sentence that opens with an adverb, as those do that follow another."""
    return f"{adverb}, {sentence[0].lower()}{sentence[1:]}" if adverb else sentence


def _harmless(text: str) -> str:
    for token in (*MEDIA_TOKENS, BOS_TOKEN, EOS_TOKEN):
        text = text.replace(token, f"({token[1:-1]})")  # without brackets, <<FaceHere>> would leave a placeholder
    return re.sub(f"{TURN}+", "#", text)
