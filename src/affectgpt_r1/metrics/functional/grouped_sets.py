"""MER2024's open-vocabulary scores: sets of labels after synonyms were grouped.

For each clip a language model groups the synonyms among target and predicted labels; a label counts as the first one of
its group. With target set G and predicted set P, Accuracy_s = mean |G & P| / |P| and Recall_s = mean |G & P| / |G|; the
score is the mean of the two (Lian et al., "MER 2024", 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.types import EmotionSet


class GroupedScores(NamedTuple):
    """Fractions; NaN where no clip has a target label."""

    accuracy_s: float
    recall_s: float
    mean: float


def grouped_scores(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], first_of: Sequence[Callable[[str], str]]
) -> GroupedScores:
    """Return the scores of ``N`` clips.

    Args:
        predictions: A clip without labels scores 0.
        targets: Clips without labels are left out; the published code divides by zero there.
        first_of: For each clip, what a label counts as.

    >>> grouped_scores([("glad", "calm")], [("Happy",)], [by_groups([["happy", "glad"]])])[:2]
    (0.5, 1.0)
    """
    accuracies, recalls = [], []
    for predicted, target, first in zip(predictions, targets, first_of, strict=True):
        named, wanted = set(map(first, predicted)), set(map(first, target))
        if wanted:
            hits = len(named & wanted)
            accuracies.append(hits / max(1, len(named)))
            recalls.append(hits / len(wanted))
    if not accuracies:
        return GroupedScores(*[float("nan")] * 3)
    accuracy, recall = (sum(values) / len(values) for values in (accuracies, recalls))
    return GroupedScores(accuracy, recall, (accuracy + recall) / 2)


def by_groups(groups: Sequence[Sequence[str]]) -> Callable[[str], str]:
    """Return what maps a label onto the first one of its group; of a label in several groups, the last one counts."""
    first = {word.lower(): group[0].lower() for group in groups for word in group}
    return lambda word: first.get(word.lower(), word.lower())


def by_lexicon(lexicon: Lexicon) -> Callable[[str], str]:
    """Return what maps a label onto the word that it is a synonym of (case 2 of the wheel metric), or onto itself."""
    return cache(lambda word: lexicon.synonym(word) or word.lower())
