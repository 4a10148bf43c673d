"""Weighted F1 and accuracy of predicted sentiment (CMU-MOSI, CMU-MOSEI, CH-SIMS, CH-SIMS v2 in MER-UniBench).

Clips with the value 0 are dropped; the target is positive if the value is above 0, else negative. As published, a
predicted neutral counts as negative; in the corrected metrics it is wrong, and not a false positive of either class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NEGATIVE, NEUTRAL, POSITIVE = 0, 1, 2


class SentimentScores(NamedTuple):
    """Fractions; NaN where no clip counts."""

    waf: float
    accuracy: float
    waf_corrected: float
    accuracy_corrected: float


def sentiment_scores(predictions: Sequence[int], values: Sequence[float]) -> SentimentScores:
    """Return the scores of ``N`` predictions, +1, 0 or -1, of ``N`` target values.

    >>> scores = sentiment_scores([1, 0, 0, -1], [0.5, -1.0, 0.0, -0.2])
    >>> scores.accuracy, round(scores.accuracy_corrected, 3)
    (1.0, 0.667)
    """
    if len(predictions) != len(values):
        raise ValueError(f"{len(predictions)} predictions for {len(values)} values")
    table = np.zeros((2, 3))  # clips by target (negative, positive) and prediction
    for prediction, value in zip(predictions, values, strict=True):
        if value != 0:
            column = POSITIVE if prediction > 0 else NEGATIVE if prediction < 0 else NEUTRAL
            table[int(value > 0), column] += 1
    decided = table[:, [NEGATIVE, POSITIVE]]
    published = decided.copy()
    published[:, 0] += table[:, NEUTRAL]
    clips = table.sum(1)
    return SentimentScores(*_weighted_f1_and_accuracy(published, clips), *_weighted_f1_and_accuracy(decided, clips))


def _weighted_f1_and_accuracy(decided: npt.NDArray[np.float64], clips: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the scores of a table (2, 2) of target by prediction, out of ``clips`` (2,) of each target."""
    correct = decided.diagonal()
    # F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c), where TP + FN are the clips of the class and TP + FP its predictions;
    # WAF = sum_c clips_c F1_c / clips; ACC = correct / clips.
    f1 = 2 * correct / np.maximum(clips + decided.sum(0), 1)
    num_clips = float(clips.sum()) or float("nan")
    return float((clips * f1).sum()) / num_clips, float(correct.sum()) / num_clips
