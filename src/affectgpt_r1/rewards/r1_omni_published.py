"""R1-Omni's two rewards as its code computes them; :mod:`.single_label` and :mod:`.format` are stricter.

What also earns here: a bare label without tags, the first of several answers, and tags that repeat or enclose others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from affectgpt_r1.types import Completion, EmotionSet

# Without DOTALL: a pair whose tags are on two lines is not found.
ANSWER = re.compile(r"<answer>(.*?)</answer>")
FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


class PublishedSingleLabelReward:
    """1 where the first answer on one line, else the whole text, is the target's only label, in its case; else 0.

    None where the target has several labels. The published code first asks ``math_verify`` whether both are equal as
    formulas, which words are not.
    """

    name = "single_label_published"

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return 1, 0 or None for each completion."""
        return [_score(completion.text, target) for completion, target in zip(completions, targets, strict=True)]


class PublishedFormatReward:
    """1 where the text is one think pair and one answer pair, whatever they enclose; else 0."""

    name = "format_published"

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return 1 or 0 for each completion."""
        return [float(FORMAT.fullmatch(completion.text) is not None) for completion in completions]


def _score(text: str, target: EmotionSet) -> float | None:
    labels = set(target)
    if len(labels) != 1:
        return None
    found = ANSWER.search(text)
    return float((found[1] if found else text).strip() == next(iter(labels)).strip())
