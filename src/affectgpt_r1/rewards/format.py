"""The format reward of AffectGPT-R1 and R1-Omni."""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.types import Completion, EmotionSet


class FormatReward:
    """1 where each tag that the prompt mode asks for occurs exactly once, in order and non-empty; else 0."""

    name = "format"

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return 1 or 0 for each completion."""
        return [float(completion.well_formed) for completion in completions]
