"""The perception reward of AffectGPT-R1: whose reasoning describes the clip better than the rest of its group."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from affectgpt_r1.errors import TrainingError
from affectgpt_r1.metrics.functional.bradley_terry import bradley_terry_strengths
from affectgpt_r1.rewards.judges import Judge
from affectgpt_r1.types import Completion, EmotionSet

_EQUAL = 1e-6  # relative difference of strengths below which two completions are as good


class PerceptionReward:
    """1 for the better half of a group, ``ceil(G / 2)`` completions, by pairwise preferences; 0 for the rest.

    The reward does not apply in a group of one, nor without ``enable_thinking``.
    """

    name = "perception"
    compares_group = True

    def __init__(self, judge: Judge, *, enable_thinking: bool = True) -> None:
        self.judge = judge
        self.enable_thinking = enable_thinking

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return 1 or 0 for each completion."""
        scores: list[float | None] = [None] * len(completions)
        if not self.enable_thinking:
            return scores
        rows_of: dict[tuple[int, str], list[int]] = {}
        for row, completion in enumerate(completions):
            rows_of.setdefault((completion.group, completion.clip), []).append(row)
        # A completion without reasoning earns 0.
        groups = [rows for rows in rows_of.values() if len(rows) > 1]
        strengths = self._strengths(groups, completions)
        for rows, group_strengths in zip(groups, strengths, strict=True):
            for row, score in zip(rows, _better_half(group_strengths), strict=True):
                scores[row] = score
        return scores

    def _strengths(
        self, groups: Sequence[Sequence[int]], completions: Sequence[Completion]
    ) -> list[list[float | None]]:
        """Return strengths by group, None for a completion without reasoning; all groups are solved at once."""
        largest = max(map(len, groups), default=0)
        wins = torch.zeros(len(groups), largest, largest, dtype=torch.float64)
        # A completion without reasoning is not compared.
        compared = [[place for place, row in enumerate(rows) if completions[row].reasoning] for rows in groups]
        asked = [
            (completions[rows[0]].clip, [completions[rows[place]].reasoning or "" for place in places])
            for rows, places in zip(groups, compared, strict=True)
        ]
        for group, (table, places) in enumerate(zip(self.judge.wins(asked), compared, strict=True)):
            if not places:
                continue
            preferred = torch.tensor(table, dtype=torch.float64)
            if not bool(((preferred >= 0) & (preferred <= 1)).all()):  # NaN would rank all of the group last
                raise TrainingError(f"judge: a preference for clip {asked[group][0]} is not between 0 and 1: {table}")
            index = torch.tensor(places)
            wins[group, index.unsqueeze(1), index] = preferred
        solved = bradley_terry_strengths(wins.numpy()).tolist()
        return [
            [strength if completions[row].reasoning else None for row, strength in zip(rows, padded, strict=False)]
            for rows, padded in zip(groups, solved, strict=True)
        ]


def _better_half(strengths: Sequence[float | None]) -> list[float]:
    ranked = sorted((strength for strength in strengths if strength is not None), reverse=True)
    if not ranked:
        return [0.0] * len(strengths)
    # Completions as strong as the last of the better half earn 1, too: to cut between equals would reward their order.
    last = ranked[min(len(ranked), -(-len(strengths) // 2)) - 1]
    return [float(strength is not None and strength >= last * (1 - _EQUAL)) for strength in strengths]
