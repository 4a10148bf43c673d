"""Accuracy and weighted F1 of answers that choose among a few, as the preference track of MER2026 is scored.

The published two-class scores leave out clips whose annotators found both descriptions alike. Any answer that is none
of the classes is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence


def choice_scores(answers: Sequence[str | None], targets: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """``accuracy``, ``waf`` (F1 of each class, weighted by its targets) and ``scored``, the number of clips.

    Args:
        answers: ``N`` answers, None where the sentence was missing.
        targets: ``N`` targets; clips whose target is none of ``classes`` are left out.
        classes: What is scored.

    Returns:
        Nothing where no clip is left.

    >>> choice_scores(["a1", "a1", None, "a2"], ["a1", "a2", "a2", "same"], ("a1", "a2"))
    {'accuracy': 0.3333333333333333, 'waf': 0.2222222222222222, 'scored': 3.0}
    """
    pairs = [(said, target) for said, target in zip(answers, targets, strict=True) if target in classes]
    if not pairs:
        return {}
    weighted = 0.0
    for name in classes:
        hits = sum(said == target == name for said, target in pairs)
        support = sum(target == name for _, target in pairs)
        named = sum(said == name for said, _ in pairs)
        weighted += support * 2 * hits / max(1, support + named)
    correct = sum(said == target for said, target in pairs)
    return {"accuracy": correct / len(pairs), "waf": weighted / len(pairs), "scored": float(len(pairs))}
