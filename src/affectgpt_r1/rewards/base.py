"""The reward contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from affectgpt_r1.types import Completion, EmotionSet


class Reward(Protocol):
    """Scores completions against targets.

    Two attributes are optional: ``enable_thinking``, whether the prompt asks for the reasoning that the reward reads
    (False: it never applies), and ``compares_group``, True where a score depends on the other completions of its group.
    """

    name: str

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return a score for each of ``N`` parsed completions and their targets; None where it does not apply."""
        ...
