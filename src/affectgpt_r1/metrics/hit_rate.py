"""The hit rate of basic emotion as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from affectgpt_r1.emotion.wheels import NUM_WHEELS, Lexicon
from affectgpt_r1.metrics.functional.hit_rate import HitRateSums, _compute, _update
from affectgpt_r1.types import EmotionSet


class HitRate(Metric):
    """Hit rate, mscore and corrected figure of predictions on clips with one basic emotion each.

    The states are sums over samples, so the result does not depend on batching, order or the number of processes.
    See :mod:`affectgpt_r1.metrics.functional.hit_rate` for the formulas.

    Args:
        classes: All classes of the set.
        lexicon: Maps words onto clusters.
        **kwargs: Of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False

    def __init__(self, classes: Sequence[str], lexicon: Lexicon, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = tuple(classes)
        self.lexicon = lexicon
        for state in HitRateSums._fields:
            self.add_state(state, torch.zeros(NUM_WHEELS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[EmotionSet], targets: Sequence[str]) -> None:
        """Adds ``B`` samples.

        Args:
            predictions: ``B`` predicted emotion sets.
            targets: ``B`` target classes.

        Raises:
            ValueError: If the lengths differ.
        """
        for state, value in _update(predictions, targets, self.classes, self.lexicon)._asdict().items():
            setattr(self, state, getattr(self, state) + value.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """``hit_rate``, ``mscore`` and ``corrected`` so far: float64 scalars, NaN if no sample counts."""
        return _compute(HitRateSums(*(getattr(self, state) for state in HitRateSums._fields)))._asdict()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the scores so far, or ``val``, of :meth:`compute` or a list of such; see torchmetrics."""
        return self._plot(val, ax)
