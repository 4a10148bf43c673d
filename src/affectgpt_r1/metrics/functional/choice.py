"""Accuracy and weighted F1 of answers that choose among a few, as the preference track of MER2026 is scored.

The published two-class scores leave out clips whose annotators found both descriptions alike. Any answer that is none
of the classes is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence


def choice_scores(answers: Sequence[str | None], targets: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Return ``accuracy``, ``waf`` (weighted F1) and ``scored``, the number of clips; nothing where none is left.

    Args:
        answers: ``N`` answers, None where the sentence was missing.
        targets: ``N`` targets; clips whose target is none of ``classes`` are left out.
        classes: The classes that are scored.

    >>> choice_scores(["a1", "a1", None, "a2"], ["a1", "a2", "a2", "same"], ("a1", "a2"))
    {'accuracy': 0.3333333333333333, 'waf': 0.2222222222222222, 'scored': 3.0}
    """
    pairs = [(answer, target) for answer, target in zip(answers, targets, strict=True) if target in classes]
    if not pairs:
        return {}
    weighted = 0.0
    for name in classes:
        hits = sum(answer == target == name for answer, target in pairs)
        support = sum(target == name for _, target in pairs)
        predicted = sum(answer == name for answer, _ in pairs)
        # F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c) = 2 hits / (support + predicted); WAF = sum_c support_c F1_c / N.
        weighted += support * 2 * hits / max(1, support + predicted)
    correct = sum(answer == target for answer, target in pairs)
    return {"accuracy": correct / len(pairs), "waf": weighted / len(pairs), "scored": float(len(pairs))}
