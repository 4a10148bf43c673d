"""The emotion-wheel score as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from affectgpt_r1.emotion.wheels import NUM_WHEELS, Lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import (
    Floats,
    _compute,
    _mean_over_wheels,
    count_unmapped,
    hits_by_size,
    sums_of_hits,
    wheel_counts,
)
from affectgpt_r1.types import EmotionSet


class EmotionWheelScore(Metric):
    """Corpus precision, recall and F1 of emotion sets, averaged over five emotion wheels.

    See :mod:`affectgpt_r1.metrics.functional.wheel_f1` for the formula. The states are integers summed over samples, so
    batching, order and the number of processes do not change a bit of the result.
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False

    hits_by_predicted: Tensor
    hits_by_relevant: Tensor
    counted: Tensor
    predicted_words: Tensor
    unmapped_words: Tensor
    num_samples: Tensor

    def __init__(self, lexicon: Lexicon, level: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most_clusters = max(len(lexicon.clusters(wheel, level)) for wheel in range(1, NUM_WHEELS + 1))
        self.lexicon = lexicon
        self.level = level
        for state in ("hits_by_predicted", "hits_by_relevant"):
            zeros = torch.zeros(NUM_WHEELS, self.most_clusters + 1, dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")
        self.add_state("counted", torch.zeros(NUM_WHEELS, dtype=torch.float64), dist_reduce_fx="sum")
        for state in ("predicted_words", "unmapped_words", "num_samples"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[EmotionSet], targets: Sequence[EmotionSet]) -> None:
        """Add ``B`` samples."""
        counts = wheel_counts(predictions, targets, self.lexicon, self.level)
        by_predicted, by_relevant, counted = hits_by_size(counts, self.most_clusters)
        unmapped, predicted = count_unmapped(predictions, self.lexicon)
        self.hits_by_predicted += torch.from_numpy(by_predicted).to(self.device)
        self.hits_by_relevant += torch.from_numpy(by_relevant).to(self.device)
        self.counted += torch.from_numpy(counted).to(self.device)
        self.unmapped_words += unmapped
        self.predicted_words += predicted
        self.num_samples += len(targets)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores so far, float64 scalars.

        ``f1``, ``precision`` and ``recall`` are means over the wheels on which any sample counts, NaN if there is none;
        ``unmapped_rate`` is the fraction of predicted words, with duplicates, that map onto no wheel at level 1.
        """
        states = (self.hits_by_predicted, self.hits_by_relevant, self.counted)
        sums = sums_of_hits(*(state.cpu().numpy() for state in states))
        score = _compute(sums)
        result = {
            name: self._tensor(_mean_over_wheels(values, sums.counted)) for name, values in score._asdict().items()
        }
        result |= {f"wheel{wheel}_f1": self._tensor(f1) for wheel, f1 in enumerate(score.f1, start=1)}
        result["unmapped_rate"] = self.unmapped_words / self.predicted_words.clamp(min=1)
        result["num_samples"] = self.num_samples.clone()
        return result

    def _tensor(self, value: Floats) -> Tensor:
        return torch.tensor(float(value), dtype=torch.float64, device=self.device)
