"""WAR and UAR of single-label recognition on DFEW, MAFW and RAVDESS (as R1-Omni reports them).

WAR is the recall weighted by support, which is the accuracy; UAR is the mean recall of the classes that occur among the
targets. An answer that is no class of the set (``unparsed``) is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.types import EmotionSet

_SEVEN = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
CLASSES: Mapping[str, tuple[str, ...]] = {
    "dfew": _SEVEN,
    "mafw": (*_SEVEN, "contempt", "anxiety", "helplessness", "disappointment"),
    "ravdess": (*_SEVEN, "calm"),
}
_FORMS = {
    "happy": ("happiness",),
    "sad": ("sadness",),
    "angry": ("anger",),
    "surprise": ("surprised",),
    "disgust": ("disgusted",),
    "fear": ("fearful",),
    "contempt": ("contemptuous",),
    "anxiety": ("anxious",),
    "helplessness": ("helpless",),
    "disappointment": ("disappointed",),
}
_CLASS_OF_FORM = {form: name for name, forms in _FORMS.items() for form in forms}


class RecognitionScores(NamedTuple):
    """Float64 scalars, and recall by class (NaN for a class without targets)."""

    war: Tensor
    uar: Tensor
    unparsed_share: Tensor
    recall: Tensor  # (K,) float64


def normalise_class(label: str) -> str:
    """The name of a class: lower case, without a closing full stop, the adjective and the noun being one.

    >>> normalise_class(" Fearful."), normalise_class("surprised"), normalise_class("calm")
    ('fear', 'surprise', 'calm')
    """
    word = label.strip().rstrip(".").strip().lower()
    return _CLASS_OF_FORM.get(word, word)


def _update(predictions: Sequence[str | None], targets: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Number of clips by target and prediction, the last column being unparsed answers: ``(K, K + 1)`` float64.

    Raises:
        ValueError: If the lengths differ, or a target is no class.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    place = {normalise_class(name): index for index, name in enumerate(classes)}
    table = torch.zeros(len(classes), len(classes) + 1, dtype=torch.float64)
    for prediction, target in zip(predictions, targets, strict=True):
        row = place.get(normalise_class(target))
        if row is None:
            raise ValueError(f"the target {target!r} is none of the classes {', '.join(classes)}")
        table[row, place.get(normalise_class(prediction or ""), len(classes))] += 1
    return table


def _compute(table: Tensor) -> RecognitionScores:
    """Scores of a ``(K, K + 1)`` table; NaN without clips."""
    support = table.sum(1)
    correct = table[:, :-1].diagonal()
    recall = correct / support
    return RecognitionScores(
        correct.sum() / support.sum(), recall.nanmean(), table[:, -1].sum() / support.sum(), recall
    )


def recognition_scores(
    predictions: Sequence[str | None], targets: Sequence[str], classes: Sequence[str]
) -> RecognitionScores:
    """WAR, UAR, share of unparsed answers and recall by class of ``N`` clips.

    Args:
        predictions: ``N`` answers, one label each, None where the answer had none.
        targets: ``N`` target classes.
        classes: The ``K`` classes, such as ``CLASSES["dfew"]``.

    Raises:
        ValueError: If the lengths differ, or a target is no class.

    >>> scores = recognition_scores(["fearful", None, "sad"], ["fear", "sad", "sad"], CLASSES["ravdess"])
    >>> round(float(scores.war), 3), float(scores.uar), round(float(scores.unparsed_share), 3)
    (0.667, 0.75, 0.333)
    """
    return _compute(_update(predictions, targets, classes))


def single_label_scores(
    answers: Sequence[EmotionSet], targets: Sequence[EmotionSet], classes: Sequence[str] = ()
) -> dict[str, float]:
    """``war``, ``uar`` and ``unparsed_share`` where every target is a single label, as in R1-Omni's sets; else nothing.

    Args:
        answers: ``N`` answered sets; one of several labels names no class.
        targets: ``N`` target sets.
        classes: The ``K`` classes; none are those that occur among the targets.

    >>> single_label_scores([("fearful",), ("sad", "happy")], [("fear",), ("sad",)])
    {'war': 0.5, 'uar': 0.5, 'unparsed_share': 0.5}
    >>> single_label_scores([("happy",)], [("happy", "proud")])
    {}
    """
    if not targets or any(len(target) != 1 for target in targets):
        return {}
    classes = classes or sorted({normalise_class(target[0]) for target in targets})
    single = [answer[0] if len(answer) == 1 else None for answer in answers]
    scores = recognition_scores(single, [target[0] for target in targets], classes)
    return {"war": float(scores.war), "uar": float(scores.uar), "unparsed_share": float(scores.unparsed_share)}
