"""What people preferred: the JSON lines that ``affectgpt-r1 app`` writes, one for each pair that a person judged.

``affectgpt-r1 prefer`` ranks systems by the same file, ``data.questions=[preference]`` trains on it, and
``judge=people`` rewards by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from affectgpt_r1.errors import DataError
from affectgpt_r1.io.untrusted_files import json_lines
from affectgpt_r1.metrics.functional.preference import FIRST, NEITHER, SECOND, SWAPPED

BOTH_BAD = "neither"  # recorded apart from `same`, and scored like it
CHOICES = (FIRST, SECOND, NEITHER, BOTH_BAD)


class Judgement(NamedTuple):
    """One person's preference between two answers to a clip, in the order in which they were shown."""

    clip: str
    rater: str
    system1: str
    system2: str
    a1: str
    a2: str
    preference: str  # one of CHOICES
    time: str  # ISO 8601, UTC

    @property
    def pair(self) -> tuple[str, str, str]:
        """Clip and systems, whatever the order in which they were shown."""
        first, second = sorted((self.system1, self.system2))
        return self.clip, first, second

    def row(self) -> dict[str, str]:
        """Return the line of the file; ``name`` is unique, as ``prefer`` asks."""
        clip, first, second = self.pair
        return {"name": f"{clip}:{first}:{second}:{self.rater}", **self._asdict()}


def read_judgements(path: Path) -> list[Judgement]:
    """Read the file; of several judgements of a pair by one person the last counts.

    Raises:
        DataError: It cannot be read, or a line is not a judgement; says which.
    """
    judgements: dict[tuple[str, ...], Judgement] = {}
    try:
        for number, row in json_lines(path):
            judgement = _judgement(row)
            if judgement is None:
                raise ValueError(f"line {number}: is not a judgement of `affectgpt-r1 app`; take the line out")
            judgements[(*judgement.pair, judgement.rater)] = judgement
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    return list(judgements.values())


def _judgement(row: Any) -> Judgement | None:
    if not isinstance(row, dict) or row.get("preference") not in CHOICES:
        return None
    texts = {key: row.get(key) for key in Judgement._fields}
    if not all(isinstance(text, str) for text in texts.values()) or not texts["clip"]:
        return None
    return Judgement(**texts)


def as_scored(preference: str) -> str:
    """Return one of ``a1``, ``a2`` and ``same``."""
    return NEITHER if preference == BOTH_BAD else preference


def preferences_of_clips(judgements: Iterable[Judgement]) -> list[dict[str, str]]:
    """Return ``name``, ``a1``, ``a2`` and ``preference`` of each clip: the majority of people, ``same`` where none is.

    Of a clip with several pairs, the one that most people judged is taken, the first of equals.
    """
    pairs: dict[str, dict[tuple[str, ...], list[Judgement]]] = {}
    for judgement in judgements:
        pairs.setdefault(judgement.clip, {}).setdefault(judgement.pair, []).append(judgement)
    rows = []
    for clip, of_clip in pairs.items():
        judged = max(of_clip.values(), key=len)
        shown = judged[0]
        votes = Counter(_in_order_of(shown, judgement) for judgement in judged)
        preference = FIRST if votes[FIRST] > votes[SECOND] else SECOND if votes[SECOND] > votes[FIRST] else NEITHER
        if votes[NEITHER] >= max(votes[FIRST], votes[SECOND]):
            preference = NEITHER
        rows.append({"name": clip, "a1": shown.a1, "a2": shown.a2, "preference": preference})
    return rows


def _in_order_of(shown: Judgement, judgement: Judgement) -> str:
    scored = as_scored(judgement.preference)
    return scored if judgement.system1 == shown.system1 else SWAPPED[scored] or NEITHER


class Agreement(NamedTuple):
    """How far people agree on the pairs that at least two of them judged."""

    pairs: int
    agreed: float  # fraction of couples of people who gave the same answer; NaN without any
    alpha: float  # Krippendorff's, for nominal answers; NaN without any, or where all answers are the same


def preference_agreement(judgements: Sequence[Judgement]) -> Agreement:
    """Return the agreement between people; ``same`` and ``neither`` are one answer.

    >>> both = [Judgement("c", rater, "x", "y", "", "", answer, "") for rater, answer in (("A", "a1"), ("B", "a1"))]
    >>> preference_agreement(both)[:2]
    (1, 1.0)
    """
    answers: dict[tuple[str, ...], list[str]] = {}
    for judgement in judgements:
        first = judgement.system1 <= judgement.system2
        scored = as_scored(judgement.preference)
        answers.setdefault(judgement.pair, []).append(scored if first else SWAPPED[scored] or NEITHER)
    return nominal_agreement([given for given in answers.values() if len(given) > 1])


def nominal_agreement(units: Sequence[Sequence[str]]) -> Agreement:
    """Return the agreement on units that two or more people answered.

    Krippendorff's alpha = 1 - D_o / D_e, with D_o the mean disagreement within units (each weighted by its answers)
    and D_e that of all answers taken together ("Computing Krippendorff's Alpha-Reliability", 2011).

    >>> nominal_agreement([["a", "a"], ["b", "b"], ["a", "b"]]).alpha.__round__(3)
    0.444
    """
    if not units:
        return Agreement(0, float("nan"), float("nan"))
    couples = [one == other for unit in units for one, other in combinations(unit, 2)]
    total = sum(map(len, units))
    observed = sum(
        2 * sum(one != other for one, other in combinations(unit, 2)) / (len(unit) - 1) for unit in units
    ) / total  # fmt: skip
    counts = np.array(list(Counter(answer for unit in units for answer in unit).values()), dtype=float)
    expected = (total**2 - float((counts**2).sum())) / (total * (total - 1))
    alpha = 1 - observed / expected if expected else float("nan")
    return Agreement(len(units), sum(couples) / len(couples), alpha)


def preferred_texts(judgements: Iterable[Judgement]) -> Mapping[str, list[tuple[str, float]]]:
    """Return by clip each answer's text and how much people preferred it: wins minus losses over comparisons."""
    sums: dict[str, dict[str, list[float]]] = {}
    for judgement in judgements:
        won = {FIRST: 1.0, SECOND: -1.0}.get(judgement.preference, 0.0)
        texts = sums.setdefault(judgement.clip, {})
        texts.setdefault(judgement.a1, []).append(won)
        texts.setdefault(judgement.a2, []).append(-won)
    return {clip: [(text, sum(won) / len(won)) for text, won in texts.items()] for clip, texts in sums.items()}
