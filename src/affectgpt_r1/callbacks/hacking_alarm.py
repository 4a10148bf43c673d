"""An alarm when training earns more reward while validation answers get worse."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from scipy import stats

from affectgpt_r1.distributed.collectives import all_gather_objects
from affectgpt_r1.tracking.mlflow_logger import mlflow_loggers

log = logging.getLogger(__name__)

HACKING_TAG = "affectgpt.reward_hacking"


class RewardHackingAlarm(pl.Callback):
    """Warn once, and tag the MLflow run with the step, when the train reward rises while a validation score falls.

    Lines are fitted by least squares to the last ``window`` validations: to the mean train reward since the validation
    before, and to the score. Stages that give no records earn no reward and never alarm.

    Args:
        monitor: Log name of the score; more is better.
        window: Validations to look back, at least 3.
        min_t: Standard errors by which both slopes must differ from 0, by the scatter around the lines. 2.13 is
            Student's 95 % quantile at the 4 degrees of freedom of 6 points: a flat score alarms at one window in 20.
        min_drop: Least fall of the score over the window. The F1 of 150 clips has a standard error of about 0.03.
    """

    def __init__(self, monitor: str = "val/f1", window: int = 6, min_t: float = 2.13, min_drop: float = 0.01) -> None:
        self.monitor = monitor
        self._window = window
        self._min_t = min_t
        self._min_drop = min_drop
        self._sum, self._count = 0.0, 0  # of the rewards since the last validation
        self._rewards: list[float] = []
        self._scores: list[float] = []
        self._alarm_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the rewards."""
        rewards = [record.reward for record in outputs.get("records", ()) if math.isfinite(record.reward)]
        self._sum += sum(rewards)
        self._count += len(rewards)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge, unless the alarm has gone off before."""
        score = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or score is None or not math.isfinite(score):
            return
        # Of all completions of all processes: micro-batches, and processes' parts of them, may differ in size.
        sums, counts = zip(*all_gather_objects((self._sum, self._count)), strict=True)
        if not sum(counts):
            return
        self._rewards = [*self._rewards, sum(sums) / sum(counts)][-self._window :]
        self._scores = [*self._scores, float(score)][-self._window :]
        self._sum, self._count = 0.0, 0
        if self._alarm_step or len(self._scores) < self._window:
            return
        rise, rise_t = slope_and_t(self._rewards)
        slope, slope_t = slope_and_t(self._scores)
        fall = -slope * (self._window - 1)
        if rise_t >= self._min_t and slope_t <= -self._min_t and fall >= self._min_drop:
            self._alarm_step = trainer.global_step
            self._report(trainer, rise * (self._window - 1), fall)

    def _report(self, trainer: pl.Trainer, rise: float, fall: float) -> None:
        if not trainer.is_global_zero:
            return
        log.warning(
            "Reward hacking at step %d: over %d validations the train reward rose by %.3f while %s fell by %.3f; "
            "look at answers/ and hacking/ in the logs",
            trainer.global_step,
            self._window,
            rise,
            self.monitor,
            fall,
        )
        for tracked in mlflow_loggers(trainer.loggers):
            tracked.experiment.set_tag(tracked.run_id, HACKING_TAG, str(trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run continues from."""
        return {
            "monitor": self.monitor,
            "reward_sum": self._sum,
            "reward_count": self._count,
            "rewards": self._rewards,
            "scores": self._scores,
            "alarm_step": self._alarm_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, but for scores of another metric, which form no line with those to come."""
        if state_dict.get("monitor", self.monitor) != self.monitor:
            return
        # Each process gets what the first had stored, so that its mean counts for all. Older checkpoints hold means.
        means = state_dict.get("pending", ())
        self._sum = state_dict.get("reward_sum", sum(means))
        self._count = state_dict.get("reward_count", len(means))
        self._rewards = list(state_dict["rewards"])
        self._scores = list(state_dict["scores"])
        self._alarm_step = state_dict["alarm_step"]


def slope_and_t(values: Sequence[float]) -> tuple[float, float]:
    """Return the slope per step of the least-squares line through at least 3 values, and its ratio to its error.

    The ratio is infinite where the values are on a line that is not level, and 0 where they are equal.

    >>> slope_and_t([0.0, 1.0, 2.0])
    (1.0, inf)
    """
    line = stats.linregress(range(len(values)), values)
    slope, error = float(line.slope), float(line.stderr)
    if not error > 1e-12 * max(1.0, abs(slope)):  # NaN where the values are equal
        return slope, 0.0 if abs(slope) < 1e-12 else math.copysign(math.inf, slope)
    return slope, slope / error
