"""MER-UniBench in one summary: nine metrics and their plain mean, as published, and corrected.

The published protocol (Lian et al., "AffectGPT", ICML 2025) scores OV-MERD+ by emotion-wheel F1, the four basic sets by
the hit rate, and the four sentiment sets by weighted F1. :data:`NOTES` says where it is questionable; the corrected
metric next to each published one fixes what it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, UniBenchSet
from affectgpt_r1.data.layouts.recognition_sets import RecognitionSet
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.metrics.functional.hit_rate import hit_rate
from affectgpt_r1.metrics.functional.neutral import counts_with_neutral, is_neutral
from affectgpt_r1.metrics.functional.polarity import load_polarity
from affectgpt_r1.metrics.functional.recognition import CLASSES, only_class, recognition_scores
from affectgpt_r1.metrics.functional.sentiment import sentiment_scores
from affectgpt_r1.metrics.functional.wheel_f1 import (
    WheelCounts,
    _compute,
    _mean_over_wheels,
    _update,
    count_unmapped,
    wheel_counts,
)
from affectgpt_r1.types import EmotionSet

SetPredictions = Mapping[str, Mapping[str, EmotionSet]]
"""Predicted emotion sets by set name and clip name."""

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
) -> dict[str, Any]:
    """Score the predictions of one checkpoint.

    Args:
        predictions: Of exactly the clips of each set in ``sets``.
        sets: Some or all of the nine sets, at least one, by name.
        lexicon: Maps words onto clusters.
        sentiment_of: Turns an emotion set into +1, 0 or -1, as a language model may: the offline word map, if None.

    Returns:
        ``lexicon``; ``sets``: by name ``group``, ``metric``, ``published``, ``corrected``, the secondary metrics under
        ``details``, ``num_clips`` and ``published_clips`` (how many the papers score); ``mean``: the plain mean of
        ``published`` and of ``corrected`` over the sets in ``sets``, comparable with the papers' only where
        ``missing`` is empty; the ``missing`` sets; ``notes``. Scores are fractions.

    Raises:
        DataError: The predictions of a set are not of its clips.
    """
    sentiment_of = sentiment_of or load_polarity().sentiment
    scored = {
        name: _score_set(sets[name], _in_order(predictions[name], sets[name]), lexicon, sentiment_of)
        for name in LAYOUTS
        if name in sets
    }
    return _summary(lexicon, scored) | {"checkpoints": None}


def unibench_over_checkpoints(
    checkpoints: Mapping[str, SetPredictions],
    sets: Mapping[str, UniBenchSet],
    lexicon: Lexicon,
    chosen: str,
    sentiment_of: Callable[[EmotionSet], int] | None = None,
) -> dict[str, Any]:
    """Score several checkpoints as published: each set's best one, picked on its test clips.

    Args:
        checkpoints: Predictions by checkpoint, such as ``"epoch 30"``.
        sets: See :func:`unibench_table`.
        lexicon: See :func:`unibench_table`.
        chosen: The checkpoint that was chosen without looking at test clips; the corrected metrics are all its own.
        sentiment_of: See :func:`unibench_table`.

    Returns:
        The summary of :func:`unibench_table`; every set also names its ``checkpoint``, and has the published metric of
        the chosen one as ``published_chosen``. ``checkpoints`` has their ``names`` and the ``chosen`` one.

    Raises:
        DataError: See :func:`unibench_table`.
    """
    tables = {
        checkpoint: unibench_table(predictions, sets, lexicon, sentiment_of)["sets"]
        for checkpoint, predictions in checkpoints.items()
    }
    scored = {}
    for name, of_chosen in tables[chosen].items():
        best = max(tables, key=lambda checkpoint: tables[checkpoint][name]["published"])
        scored[name] = tables[best][name] | {
            "checkpoint": best,
            "corrected": of_chosen["corrected"],
            "published_chosen": of_chosen["published"],
        }
    return _summary(lexicon, scored) | {"checkpoints": {"names": list(checkpoints), "chosen": chosen}}


def _summary(lexicon: Lexicon, scored: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    missing = [name for name in LAYOUTS if name not in scored]
    means = {
        kind: sum(metrics[kind] for metrics in scored.values()) / len(scored) for kind in ("published", "corrected")
    }
    return {"lexicon": lexicon.name, "sets": scored, "mean": means, "missing": missing, "notes": NOTES}


def _in_order(predicted: Mapping[str, EmotionSet], clips: UniBenchSet | RecognitionSet) -> list[EmotionSet]:
    lacking = [name for name in clips.names if name not in predicted]
    extra = sorted(set(predicted) - set(clips.names))
    if lacking or extra:
        raise DataError(
            f"{clips.name}: predictions lack {len(lacking)} clips and have {len(extra)} others, "
            f"such as {(lacking or extra)[0]}; predict the {len(clips)} test clips and no other"
        )
    return [predicted[name] for name in clips.names]


def _score_set(
    clips: UniBenchSet, predicted: list[EmotionSet], lexicon: Lexicon, sentiment_of: Callable[[EmotionSet], int]
) -> dict[str, Any]:
    if clips.group == "fine":
        metric, published, corrected, details = _fine(clips, predicted, lexicon)
    elif clips.group == "basic":
        metric, published, corrected, details = _basic(clips, predicted, lexicon)
    else:
        metric, published, corrected, details = _sentiment(clips, predicted, sentiment_of)
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


def _fine(clips: UniBenchSet, predicted: list[EmotionSet], lexicon: Lexicon) -> _Scored:
    scores = _wheel_means(wheel_counts(predicted, clips.labels, lexicon))
    corrected = _wheel_means(counts_with_neutral(predicted, clips.labels, lexicon))
    details = {name: scores[name] for name in ("precision", "recall")}
    return "EW F1", scores["f1"], corrected["f1"], details | {"unmapped_rate": _unmapped_rate(predicted, lexicon)}


def _unmapped_rate(predicted: list[EmotionSet], lexicon: Lexicon) -> float:
    """Return the fraction of the predicted words but ``neutral`` that no wheel knows."""
    emotions = [tuple(word for word in words if not is_neutral(word)) for words in predicted]
    unmapped, num_words = count_unmapped(emotions, lexicon)
    return unmapped / max(1, num_words)


def _wheel_means(counts: WheelCounts) -> dict[str, float]:
    sums = _update(counts)
    scores = _compute(sums)._asdict()
    return {name: float(_mean_over_wheels(values, sums.counted)) for name, values in scores.items()}


def _basic(clips: UniBenchSet, predicted: list[EmotionSet], lexicon: Lexicon) -> _Scored:
    scores = hit_rate(predicted, [label for (label,) in clips.labels], clips.classes, lexicon)
    details = {"mscore": scores.mscore, "unmapped_rate": _unmapped_rate(predicted, lexicon)}
    return "hit rate", scores.hit_rate, scores.corrected, details


def _sentiment(clips: UniBenchSet, predicted: list[EmotionSet], sentiment_of: Callable[[EmotionSet], int]) -> _Scored:
    sentiments = [sentiment_of(words) for words in predicted]
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
