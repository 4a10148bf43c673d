"""The reward contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from affectgpt_r1.types import Completion, EmotionSet


class Reward(Protocol):
    """Scores completions against targets.

    ``None`` means that the reward does not apply to a completion; a reward that fails raises. Two attributes are
    optional: ``enable_thinking``, whether the prompt asks for the reasoning that the reward reads (False: it never
    applies), and ``compares_group``, True where a score depends on the other completions of its group.
    """

    name: str

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """One score for each completion.

        Args:
            completions: ``N`` parsed completions.
            targets: ``N`` target emotion sets, one for each completion.
        """
        ...
