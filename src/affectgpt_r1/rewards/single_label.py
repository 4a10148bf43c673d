"""The accuracy reward of R1-Omni: one label, matched strictly."""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.types import Completion, EmotionSet


class SingleLabelReward:
    """1 where the full answer is the target's only label, without case, else 0; None where there are several."""

    name = "single_label"

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return 1, 0 or None for each completion."""
        return [_score(completion, target) for completion, target in zip(completions, targets, strict=True)]


def _score(completion: Completion, target: EmotionSet) -> float | None:
    labels = {label.strip().lower() for label in target}
    if len(labels) != 1:
        return None
    answer = (completion.answer or "").strip().lower()
    # The published code takes the first of several answers; here a second answer tag earns 0.
    return float(answer in labels and completion.text.count("<answer>") == 1)
