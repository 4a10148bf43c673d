"""Weighted F1 of predicted sentiment as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from affectgpt_r1.metrics.functional.polarity import load_polarity
from affectgpt_r1.metrics.functional.sentiment import _compute, _update
from affectgpt_r1.types import EmotionSet


class SentimentF1(Metric):
    """Published and corrected weighted F1 and accuracy of the sentiment of emotion sets.

    The state is a table of clips, so the result does not depend on batching, order or the number of processes.
    See :mod:`affectgpt_r1.metrics.functional.sentiment` for the formulas.

    Args:
        sentiment_of: Turns an emotion set into +1, 0 or -1: the offline word map, if None.
        **kwargs: Of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False

    table: Tensor

    def __init__(self, sentiment_of: Callable[[EmotionSet], int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sentiment_of = sentiment_of or load_polarity().sentiment
        self.add_state("table", torch.zeros(2, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[EmotionSet], values: Sequence[float]) -> None:
        """Adds ``B`` samples.

        Args:
            predictions: ``B`` predicted emotion sets.
            values: ``B`` target sentiment values; samples with 0 are dropped.

        Raises:
            ValueError: If the lengths differ.
        """
        self.table += _update([self.sentiment_of(words) for words in predictions], values).to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """``waf``, ``accuracy``, ``waf_corrected``, ``accuracy_corrected`` so far: float64 scalars, NaN of no clips."""
        return _compute(self.table)._asdict()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the scores so far, or ``val``, of :meth:`compute` or a list of such; see torchmetrics."""
        return self._plot(val, ax)
