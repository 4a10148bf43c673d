"""WAR and UAR of single-label recognition on DFEW, MAFW and RAVDESS (as R1-Omni reports them)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from affectgpt_r1.metrics.functional.choice import choice_scores
from affectgpt_r1.types import EmotionSet

SIX_CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
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
    """Fractions; NaN where there are no clips."""

    war: float
    uar: float
    unparsed_rate: float


def normalise_class(label: str) -> str:
    """Return the name of a class: lower case, without a full stop, the same for adjective and noun.

    >>> normalise_class(" Fearful."), normalise_class("surprised"), normalise_class("calm")
    ('fear', 'surprise', 'calm')
    """
    word = label.strip().rstrip(".").strip().lower()
    return _CLASS_OF_FORM.get(word, word)


def recognition_scores(
    predictions: Sequence[str | None], targets: Sequence[str], classes: Sequence[str]
) -> RecognitionScores:
    """Return WAR, UAR and the rate of unparsed answers of ``N`` clips.

    An answer of None, or that is not one of the classes, is unparsed, and wrong.

    Raises:
        ValueError: The lengths differ, or a target is not one of the classes.

    >>> scores = recognition_scores(["fearful", None, "sad"], ["fear", "sad", "sad"], CLASSES["ravdess"])
    >>> round(scores.war, 3), scores.uar, round(scores.unparsed_rate, 3)
    (0.667, 0.75, 0.333)
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    place = {normalise_class(name): index for index, name in enumerate(classes)}
    table = np.zeros((len(classes), len(classes) + 1))  # target by answer; last: unparsed
    for prediction, target in zip(predictions, targets, strict=True):
        row = place.get(normalise_class(target))
        if row is None:
            raise ValueError(f"the target {target!r} is none of the classes {', '.join(classes)}")
        table[row, place.get(normalise_class(prediction or ""), len(classes))] += 1
    support, correct = table.sum(1), table[:, :-1].diagonal()
    num_clips = float(support.sum()) or float("nan")
    # WAR = sum_c TP_c / N, the recall weighted by support, which is the accuracy. UAR = mean_c TP_c / N_c over the
    # classes that occur among the targets.
    occurs = support > 0
    uar = float((correct[occurs] / support[occurs]).mean()) if occurs.any() else float("nan")
    return RecognitionScores(float(correct.sum()) / num_clips, uar, float(table[:, -1].sum()) / num_clips)


def only_class(answer: EmotionSet) -> str | None:
    """Return the only class that an answer names, however often; None where it names none or several.

    >>> only_class(("fear", "Fearful.")), only_class(("sad", "happy")), only_class(())
    ('fear', None, None)
    """
    distinct = {normalise_class(label) for label in answer}
    return distinct.pop() if len(distinct) == 1 else None


def single_label_scores(
    answers: Sequence[EmotionSet], targets: Sequence[EmotionSet], classes: Sequence[str] = ()
) -> dict[str, float]:
    """Return ``war``, ``uar`` and ``unparsed_rate`` where every target is a single label; else nothing.

    An answer of several classes is unparsed. ``classes`` are by default those that occur among the targets.

    >>> single_label_scores([("fearful",), ("sad", "happy")], [("fear",), ("sad",)])
    {'war': 0.5, 'uar': 0.5, 'unparsed_rate': 0.5}
    >>> single_label_scores([("happy",)], [("happy", "proud")])
    {}
    """
    if not targets or any(len(target) != 1 for target in targets):
        return {}
    classes = classes or sorted({normalise_class(target[0]) for target in targets})
    return recognition_scores(
        [only_class(answer) for answer in answers], [label for (label,) in targets], classes
    )._asdict()


def six_class_scores(answers: Sequence[EmotionSet], targets: Sequence[EmotionSet]) -> dict[str, float]:
    """Return ``accuracy``, ``waf`` and ``scored`` of track 1 where every target is of its six classes; else nothing.

    An answer of several classes, or of another one, is wrong.

    >>> six_class_scores([("happy",), ("sad", "angry")], [("happy",), ("sad",)])
    {'accuracy': 0.5, 'waf': 0.5, 'scored': 2.0}
    """
    if any(len(target) != 1 for target in targets):
        return {}
    wanted = [only_class(target) for target in targets]
    known = [target for target in wanted if target in SIX_CLASSES]
    return choice_scores([only_class(answer) for answer in answers], known, SIX_CLASSES) if known == wanted else {}
