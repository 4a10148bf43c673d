"""The accuracy reward of R1-Omni: one label, matched strictly."""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.types import Completion, EmotionSet


class SingleLabelReward:
    """1 where the whole answer is the target's only label, else 0: "happy or sad or angry" earns nothing.

    Case and outer white space do not matter. Unlike the published code, which takes the first of several answers and
    lets a symbolic solver compare them, a second answer tag earns 0. A target of several labels has no single right
    answer: the reward does not apply to it.
    """

    name = "single_label"

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """See :class:`~affectgpt_r1.rewards.base.Reward`."""
        return [_score(completion, target) for completion, target in zip(completions, targets, strict=True)]


def _score(completion: Completion, target: EmotionSet) -> float | None:
    labels = {label.strip().lower() for label in target}
    if len(labels) != 1:
        return None
    answer = (completion.answer or "").strip().lower()
    return float(answer in labels and completion.text.count("<answer>") == 1)
