"""WAR and UAR as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from affectgpt_r1.metrics.functional.recognition import _compute, _update


class ClassRecall(Metric):
    """Weighted (WAR) and unweighted (UAR) average recall of single-label answers.

    The state is a table of clips, so the result does not depend on batching, order or the number of processes.
    See :mod:`affectgpt_r1.metrics.functional.recognition` for the formulas.

    Args:
        classes: The classes, such as ``CLASSES["dfew"]``.
        **kwargs: Of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False

    table: Tensor

    def __init__(self, classes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = tuple(classes)
        empty = torch.zeros(len(self.classes), len(self.classes) + 1, dtype=torch.float64)
        self.add_state("table", empty, dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str | None], targets: Sequence[str]) -> None:
        """Adds ``B`` samples.

        Args:
            predictions: ``B`` answers, one label each, None where the answer had none.
            targets: ``B`` target classes.

        Raises:
            ValueError: If the lengths differ, or a target is no class.
        """
        self.table += _update(predictions, targets, self.classes).to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """``war``, ``uar`` and ``unparsed_share`` so far: float64 scalars, NaN of no clips."""
        scores = _compute(self.table)
        return {"war": scores.war, "uar": scores.uar, "unparsed_share": scores.unparsed_share}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the scores so far, or ``val``, of :meth:`compute` or a list of such; see torchmetrics."""
        return self._plot(val, ax)
