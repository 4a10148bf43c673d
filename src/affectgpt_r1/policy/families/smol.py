"""AffectGPT's modules, asked as SmolLM2-Instruct was taught: in ChatML's turns, of which ``<|im_end|>`` ends each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from affectgpt_r1.policy.families import affectgpt
from affectgpt_r1.policy.families.base import Family
from affectgpt_r1.policy.prompts import (
    AUDIO_TOKEN,
    BOS_TOKEN,
    EOS_TOKEN,
    FACE_TOKEN,
    FRAME_TOKEN,
    IMAGE_TOKEN,
    MULTI_TOKEN,
    SUBTITLE_CLOSING,
    SUBTITLE_OPENING,
    PromptTemplate,
)
from affectgpt_r1.types import Modality

SYSTEM = f"{BOS_TOKEN}system\n"
USER = f"{EOS_TOKEN}\n{BOS_TOKEN}user\n"
ASSISTANT = f"{EOS_TOKEN}\n{BOS_TOKEN}assistant\n"
# In place of AffectGPT's sentences, which double the tokens of a prompt, and so the time of a step on a CPU.
NAMES = {
    MULTI_TOKEN: "Face and voice",
    AUDIO_TOKEN: "Voice",
    FACE_TOKEN: "Face",
    FRAME_TOKEN: "Video",
    IMAGE_TOKEN: "Image",
}


@dataclass(frozen=True)
class SmolTemplate(PromptTemplate):
    """The question as system turn, a line for each medium and for what is said, an answer in tags without spaces."""

    closing: ClassVar[str] = EOS_TOKEN
    opens_with_bos: ClassVar[bool] = False  # the system turn does
    think_template: ClassVar[str] = "<think>{reason}</think>\n"
    answer_template: ClassVar[str] = "<answer>{labels}</answer>"

    def wording(self, modalities: Sequence[Modality], said: str, question: str) -> str:
        """See :class:`~affectgpt_r1.policy.prompts.PromptTemplate`."""
        media = [f"{NAMES[token]}: {token}" for token in re.findall("|".join(NAMES), self._media(modalities))]
        words = [f"Words: {said.removeprefix(SUBTITLE_OPENING).removesuffix(SUBTITLE_CLOSING)}"] if said else []
        clip = "\n".join(media + words)
        return f"{SYSTEM}{question}{USER}{clip}{ASSISTANT}"

    def phrases(self) -> list[str]:
        """See :class:`~affectgpt_r1.policy.prompts.PromptTemplate`."""
        return [self.question]


FAMILY = Family(SmolTemplate, affectgpt.build_modules, affectgpt.FAMILY.parts)
