"""Scores of pairwise preferences, as EmoPrefer and the preference track of MER2026 have them.

An answer prefers the first description (``a1``), the second (``a2``), or neither (``same``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from affectgpt_r1.metrics.functional.bradley_terry import bradley_terry_strengths
from affectgpt_r1.metrics.functional.choice import choice_scores

FIRST, SECOND, NEITHER = "a1", "a2", "same"
SWAPPED: Mapping[str | None, str | None] = {FIRST: SECOND, SECOND: FIRST, NEITHER: NEITHER, None: None}


def preference_scores(answers: Sequence[str | None], targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return ``accuracy``, ``waf`` (weighted F1) and ``scored`` pairs, each a fraction but the last, of ``N`` answers.

    ``two_class`` leaves out pairs whose target is ``same`` and takes an answered ``same`` for ``a1``, as the official
    scorer does; ``two_class_strict`` takes it for wrong; ``three_class`` scores all pairs. None, an answer that could
    not be read, is wrong everywhere.

    >>> scores = preference_scores(["a1", "same", "a2"], ["a1", "a1", "same"])
    >>> [scores[kind]["accuracy"] for kind in ("two_class", "two_class_strict", "three_class")]
    [1.0, 0.5, 0.3333333333333333]
    """
    official = [FIRST if answer == NEITHER else answer for answer in answers]
    return {
        "two_class": choice_scores(official, targets, (FIRST, SECOND)),
        "two_class_strict": choice_scores(answers, targets, (FIRST, SECOND)),
        "three_class": choice_scores(answers, targets, (FIRST, SECOND, NEITHER)),
    }


def swap_consistency(answers: Sequence[str | None], swapped: Sequence[str | None]) -> float:
    """Return the fraction of ``N`` pairs on which the preferred description stays when the two change places.

    Args:
        answers: Of the pairs as they are.
        swapped: Of the same pairs with the descriptions swapped. A pair without an answer is not consistent.
    """
    pairs = list(zip(answers, swapped, strict=True))
    return sum(one is not None and one == SWAPPED[other] for one, other in pairs) / len(pairs)


class Rank(NamedTuple):
    """A system's place in the ranking."""

    system: str
    strength: float  # of the Bradley-Terry model; 1 is the strength of the average rival
    low: float  # of the 95 % percentile interval over resampled pairs
    high: float
    won: float  # pairs, a tie counts half
    played: int


def rank_systems(
    first: Sequence[str], second: Sequence[str], answers: Sequence[str | None], *, resamples: int = 1000, seed: int = 0
) -> list[Rank]:
    """Rank systems by the preferences between their descriptions (EMER-Ranker), the strongest first.

    Args:
        first: System of the first description of ``N`` pairs.
        second: System of the second one.
        answers: Preferences; pairs without one are left out.
        resamples: Of the pairs, for the intervals.
        seed: Of the resampling.
    """
    kept = [row for row, answer in enumerate(answers) if answer is not None]
    systems = sorted({name for row in kept for name in (first[row], second[row])})
    place = {name: index for index, name in enumerate(systems)}
    left = np.array([place[first[row]] for row in kept], dtype=np.intp)
    right = np.array([place[second[row]] for row in kept], dtype=np.intp)
    share = np.array([{FIRST: 1.0, SECOND: 0.0}.get(answers[row] or "", 0.5) for row in kept])

    def wins(weights: np.ndarray) -> np.ndarray:
        table = np.zeros((len(systems), len(systems)))
        np.add.at(table, (left, right), weights * share)
        np.add.at(table, (right, left), weights * (1 - share))
        np.fill_diagonal(table, 0.0)  # a system against itself says nothing
        return table

    table = wins(np.ones(len(kept)))
    strengths = bradley_terry_strengths(table)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(kept), np.full(len(kept), 1 / max(1, len(kept))), size=resamples)
    resampled = bradley_terry_strengths(np.stack([wins(weights.astype(float)) for weights in draws]))
    bounds = np.quantile(resampled, (0.025, 0.975), axis=0)
    order = np.argsort(-strengths, kind="stable")
    return [
        Rank(
            systems[row],
            float(strengths[row]),
            float(bounds[0, row]),
            float(bounds[1, row]),
            float(table[row].sum()),
            round(float(table[row].sum() + table[:, row].sum())),
        )
        for row in order
    ]
