"""The penalised wheel score and the emotions of a reasoning, for the rewards that compare emotion sets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.rewards.penalty import Penalty, length_factor
from affectgpt_r1.types import Completion, EmotionSet


def penalised_scores(
    predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon, penalty: Penalty
) -> list[float | None]:
    """Return wheel scores in [0, 1] times the length penalty; None where the target maps on no wheel."""
    scores = batch_mean_set_f1(predictions, targets, lexicon)
    return [
        None if score is None else score * length_factor(penalty, _num_distinct(prediction), _num_distinct(target))
        for score, prediction, target in zip(scores, predictions, targets, strict=True)
    ]


def reasoning_labels(completions: Sequence[Completion], lexicon: Lexicon) -> list[EmotionSet]:
    """Return the emotion words that each completion's reasoning affirms, ``()`` where it has no reasoning."""
    return [_extracted(completion.reasoning or "", lexicon) for completion in completions]


@lru_cache(maxsize=4096)  # completions of a group repeat each other, and two rewards read each
def _extracted(reasoning: str, lexicon: Lexicon) -> EmotionSet:
    return extract_labels(reasoning, lexicon).labels


def _num_distinct(labels: EmotionSet) -> int:
    return len({label.strip().lower() for label in labels})
