"""MER-UniBench in one summary: nine metrics and their plain mean, as published, and corrected.

The published protocol (Lian et al., "AffectGPT", ICML 2025) scores OV-MERD+ by emotion-wheel F1, the four basic sets by
the hit rate, and the four sentiment sets by weighted F1. :data:`NOTES` says where it is questionable; the corrected
metric next to each published one fixes what it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, UniBenchSet
from affectgpt_r1.data.layouts.recognition_sets import RecognitionSet
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.unibench_choice import compare_choices, published_metric
from affectgpt_r1.metrics.clip_names import pair_names
from affectgpt_r1.metrics.functional.hit_rate import hit_rate
from affectgpt_r1.metrics.functional.neutral import counts_with_neutral, is_neutral
from affectgpt_r1.metrics.functional.polarity import load_polarity
from affectgpt_r1.metrics.functional.recognition import CLASSES, only_class, recognition_scores, six_class_scores
from affectgpt_r1.metrics.functional.sentiment import sentiment_scores
from affectgpt_r1.metrics.functional.wheel_f1 import (
    NoTarget,
    WheelCounts,
    _compute,
    _mean_over_wheels,
    _update,
    count_unmapped,
    wheel_counts,
)
from affectgpt_r1.metrics.unibench_bootstrap import SummedMetric
from affectgpt_r1.types import EmotionSet

SetPredictions = Mapping[str, Mapping[str, EmotionSet]]
"""Predicted emotion sets by set name and clip name."""

SetSentiments = Mapping[str, Mapping[str, int]]
"""Sentiments +1, 0 or -1 of the predictions, by set name and clip name."""

NOTES = {
    "checkpoint": "The published metrics take, for each set, the checkpoint that does best on that set's test clips. "
    "Corrected: one checkpoint for all sets, chosen without them.",
    "neutral": "Published: clips whose target is neutral are dropped from fine-grained and basic sets, and a predicted "
    "neutral is free there. Corrected: neutral is a cluster of its own.",
    "extra": "Published: on basic sets, further predicted emotions are free, so that naming all of them scores 100. "
    "Corrected: the fraction of the predicted clusters that is right.",
    "abstention": "Published: on sentiment sets, clips of value 0 are dropped and a predicted neutral counts as "
    "negative. Corrected: a predicted neutral is wrong for either target.",
    "extraction": "Published: Qwen2.5-7B-Instruct, sampled at temperature 0.7, takes the labels out of free text and "
    "judges their sentiment. Whatever does so here gives other metrics.",
    "unmapped": "Predicted words that no wheel knows cost nothing in either metric; their rate is shown.",
}


def unibench_table(
    predictions: SetPredictions,
    sets: Mapping[str, UniBenchSet],
    lexicon: Lexicon,
    sentiment_of: Callable[[EmotionSet], int] | None = None,
    sentiments: SetSentiments | None = None,
    no_target: NoTarget = "leave",
) -> dict[str, Any]:
    """Score the predictions of one checkpoint.

    Args:
        predictions: Of all clips of each set in ``sets``; those of other clips are counted and not scored.
        sets: Some or all of the nine sets, at least one, by name.
        lexicon: Maps words onto clusters.
        sentiment_of: Turns an emotion set into +1, 0 or -1, as a language model may: the offline word map, if None.
        sentiments: What the predictions of some sets were judged to be, in place of ``sentiment_of``.
        no_target: A wheel on which no target counts, in the published metrics.

    Returns:
        ``lexicon``; ``sets``: by name ``group``, ``metric``, ``published``, ``corrected``, the secondary metrics under
        ``details``, ``num_clips``, ``published_clips`` (how many the papers score) and ``not_scored`` (predictions of
        other clips); ``mean``: the plain mean of
        ``published`` and of ``corrected`` over the sets in ``sets``, comparable with the papers' only where
        ``missing`` is empty; the ``missing`` sets; ``notes``. Scores are fractions.

    Raises:
        DataError: A clip of a set has no prediction, or no sentiment where ``sentiments`` has that set.
    """
    sentiment_of = sentiment_of or load_polarity().sentiment
    scored = {}
    for name, clips in sets.items():
        predicted = _in_order(predictions[name], clips)
        judged = _in_order(sentiments[name], clips) if sentiments and name in sentiments else None
        scored[name] = _score_set(clips, predicted, lexicon, judged or list(map(sentiment_of, predicted)), no_target)
        scored[name]["not_scored"] = len(predictions[name]) - len(clips)
    scored = {name: scored[name] for name in LAYOUTS if name in scored}
    return _summary(lexicon, scored) | {"checkpoints": None, "choice": None}


def unibench_over_checkpoints(
    checkpoints: Mapping[str, SetPredictions],
    sets: Mapping[str, UniBenchSet],
    lexicon: Lexicon,
    chosen: str | None,
    sentiment_of: Callable[[EmotionSet], int] | None = None,
    sentiments: Mapping[str, SetSentiments] | None = None,
    no_target: NoTarget = "leave",
) -> dict[str, Any]:
    """Score several checkpoints as published: each set's best one, picked on its test clips.

    Args:
        checkpoints: Predictions by checkpoint, such as ``"epoch 30"``.
        sets: See :func:`unibench_table`.
        lexicon: See :func:`unibench_table`.
        chosen: The checkpoint that was chosen without looking at test clips; the corrected metrics are all its own.
            None: there are no corrected metrics.
        sentiment_of: See :func:`unibench_table`.
        sentiments: By checkpoint; see :func:`unibench_table`.
        no_target: See :func:`unibench_table`.

    Returns:
        The summary of :func:`unibench_table`; every set also names its ``checkpoint``, and has the published metric of
        the chosen one as ``published_chosen``. ``checkpoints`` has their ``names``, the ``chosen`` one, and the
        ``published`` metrics of each, by set and as their ``mean``; ``choice`` compares the published choice with one
        that does not look at test clips, see :func:`~.unibench_choice.compare_choices`.

    Raises:
        DataError: See :func:`unibench_table`.
    """
    tables = {
        checkpoint: unibench_table(
            predictions, sets, lexicon, sentiment_of, (sentiments or {}).get(checkpoint), no_target
        )
        for checkpoint, predictions in checkpoints.items()
    }
    scored = {}
    for name in next(iter(tables.values()))["sets"]:
        of_set = {checkpoint: table["sets"][name] for checkpoint, table in tables.items()}
        best = max(of_set, key=lambda checkpoint: of_set[checkpoint]["published"])
        scored[name] = of_set[best] | {
            "checkpoint": best,
            "corrected": of_set[chosen]["corrected"] if chosen else None,
            "published_chosen": of_set[chosen]["published"] if chosen else None,
        }
    published = {
        checkpoint: {name: metrics["published"] for name, metrics in table["sets"].items()}
        | {"mean": table["mean"]["published"]}
        for checkpoint, table in tables.items()
    }
    names = {"names": list(checkpoints), "chosen": chosen, "published": published}
    judge = sentiment_of or load_polarity().sentiment
    metrics: dict[str, dict[str, SummedMetric]] = {name: {} for name in scored}
    for checkpoint, predictions in checkpoints.items():
        given = (sentiments or {}).get(checkpoint, {})
        for name in metrics:
            predicted = _in_order(predictions[name], sets[name])
            if sets[name].group != "sentiment":
                judged = []
            else:
                judged = _in_order(given[name], sets[name]) if name in given else list(map(judge, predicted))
            metrics[name][checkpoint] = published_metric(sets[name], predicted, judged, lexicon, no_target)
    return _summary(lexicon, scored) | {"checkpoints": names, "choice": compare_choices(metrics, chosen)}


def _summary(lexicon: Lexicon, scored: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    missing = [name for name in LAYOUTS if name not in scored]
    values = {kind: [metrics[kind] for metrics in scored.values()] for kind in ("published", "corrected")}
    means = {kind: None if None in of_kind else sum(of_kind) / len(of_kind) for kind, of_kind in values.items()}
    return {"lexicon": lexicon.name, "sets": scored, "mean": means, "missing": missing, "notes": NOTES}


_T = TypeVar("_T")


def _in_order(predicted: Mapping[str, _T], clips: UniBenchSet | RecognitionSet) -> list[_T]:
    """Return what was predicted for each clip of a set, whose names may differ in form; see :func:`pair_names`."""
    names = list(predicted)
    pairs, _ = pair_names(names, clips.names, subset=True)
    if len(pairs) < len(clips):
        paired = {row for _, row in pairs}
        first = next(name for row, name in enumerate(clips.names) if row not in paired)
        raise DataError(
            f"{clips.name}: predictions lack {len(clips) - len(pairs)} clips, such as {first}; "
            f"predict all {len(clips)} test clips"
        )
    return [predicted[names[row]] for row, _ in pairs]


def _score_set(
    clips: UniBenchSet, predicted: list[EmotionSet], lexicon: Lexicon, sentiments: list[int], no_target: NoTarget
) -> dict[str, Any]:
    if clips.group == "fine":
        metric, published, corrected, details = _fine(clips, predicted, lexicon, no_target)
    elif clips.group == "basic":
        metric, published, corrected, details = _basic(clips, predicted, lexicon, no_target)
    else:
        metric, published, corrected, details = _sentiment(clips, sentiments)
    return {
        "group": clips.group,
        "metric": metric,
        "published": published,
        "corrected": corrected,
        "details": details,
        "num_clips": len(clips),
        "published_clips": LAYOUTS[clips.name].num_clips,
    }


_Scored = tuple[str, float, float, dict[str, float]]


def _fine(clips: UniBenchSet, predicted: list[EmotionSet], lexicon: Lexicon, no_target: NoTarget) -> _Scored:
    counts = wheel_counts(predicted, clips.labels, lexicon)
    scores = _wheel_means(counts, no_target)
    corrected = _wheel_means(counts_with_neutral(predicted, clips.labels, lexicon))
    details = {name: scores[name] for name in ("precision", "recall")}
    details |= {"unmapped_rate": _unmapped_rate(predicted, lexicon), "empty_wheels": _empty_wheels(counts)}
    return "EW F1", scores["f1"], corrected["f1"], details


def _empty_wheels(counts: WheelCounts) -> int:
    """Return the number of wheels on which no target counts."""
    return int((~(counts.relevant > 0).any(0)).sum())


def _unmapped_rate(predicted: list[EmotionSet], lexicon: Lexicon) -> float:
    """Return the fraction of the predicted words but ``neutral`` that no wheel knows."""
    emotions = [tuple(word for word in words if not is_neutral(word)) for words in predicted]
    unmapped, num_words = count_unmapped(emotions, lexicon)
    return unmapped / max(1, num_words)


def _wheel_means(counts: WheelCounts, no_target: NoTarget = "leave") -> dict[str, float]:
    sums = _update(counts)
    scores = _compute(sums)._asdict()
    return {name: float(_mean_over_wheels(values, sums.counted, no_target)) for name, values in scores.items()}


def _basic(clips: UniBenchSet, predicted: list[EmotionSet], lexicon: Lexicon, no_target: NoTarget) -> _Scored:
    scores = hit_rate(predicted, [label for (label,) in clips.labels], clips.classes, lexicon, no_target)
    details = {
        "mscore": scores.mscore,
        "unmapped_rate": _unmapped_rate(predicted, lexicon),
        "empty_wheels": _empty_wheels(wheel_counts(clips.labels, clips.labels, lexicon)),
    }
    if all(len(words) <= 1 for words in predicted) and (track1 := six_class_scores(predicted, clips.labels)):
        details["six_class_waf"] = track1["waf"]
    return "hit rate", scores.hit_rate, scores.corrected, details


def _sentiment(clips: UniBenchSet, sentiments: list[int]) -> _Scored:
    scores = sentiment_scores(sentiments, clips.values)
    details = {
        "accuracy": scores.accuracy,
        "accuracy_corrected": scores.accuracy_corrected,
        "predicted_neutral": sentiments.count(0) / len(sentiments),
    }
    return "WAF", scores.waf, scores.waf_corrected, details


def recognition_table(predictions: SetPredictions, sets: Mapping[str, RecognitionSet]) -> dict[str, dict[str, Any]]:
    """Score single-label sets.

    Args:
        predictions: Of exactly the clips of each set in ``sets``. An answer with several distinct labels is wrong.
        sets: DFEW, MAFW and RAVDESS, some or all, by name.

    Returns:
        By set ``war``, ``uar`` and ``unparsed_rate``, fractions; ``num_clips``; ``source`` of the labels.

    Raises:
        DataError: The predictions of a set are not of its clips.
    """
    table = {}
    for name, clips in sets.items():
        answers = [only_class(words) for words in _in_order(predictions[name], clips)]
        scores = recognition_scores(answers, clips.labels, CLASSES[name])
        table[name] = {**scores._asdict(), "num_clips": len(clips), "source": clips.source}
    return table
