"""GRPO mixed with a supervised loss on labelled clips: CHORD (Zhang et al. 2025, arXiv 2508.11408; ms-swift)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.base import Policy
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.sft import supervised_loss
from affectgpt_r1.types import ClipBatch, LogValue, StageOutput


@dataclasses.dataclass(frozen=True)
class MuSchedule:
    """Weight of the supervised loss by optimizer step: linear from 0 to ``peak``, then a cosine down to ``valley``.

    Without ``decay_steps`` it is ``peak`` from the end of the warm-up on.

    >>> [round(MuSchedule(0.5, 0.1, warmup_steps=2, decay_steps=2)(step), 2) for step in range(6)]
    [0.0, 0.25, 0.5, 0.3, 0.1, 0.1]
    """

    peak: float
    valley: float
    warmup_steps: int = 0
    decay_steps: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        for key in ("peak", "valley"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"stage.mu.{key}={getattr(self, key)} must be between 0 and 1")
        for key in ("warmup_steps", "decay_steps"):
            if getattr(self, key) < 0:
                raise ConfigError(f"stage.mu.{key}={getattr(self, key)} must be at least 0")

    def __call__(self, step: int) -> float:
        """Return mu at an optimizer step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        if not self.decay_steps:
            return self.peak
        done = min(1.0, (step - self.warmup_steps) / self.decay_steps)
        return self.valley + (self.peak - self.valley) * 0.5 * (1 + math.cos(math.pi * done))


class CHORDStage(GRPOStage):
    """Train ``(1 - mu) * GRPO + mu * SFT``, the latter on ``batch.supervised``.

    Args:
        mu: Weight of the supervised loss.
        supervised_batch_size: Labelled clips of each training batch, per process.
        token_weighting: ``phi`` weighs each target token by p (1 - p), so that neither what the policy knows nor what
            it would never say moves it much; ``none`` weighs all alike.
        **options: See :class:`~affectgpt_r1.training.grpo.GRPOStage`.

    Raises:
        ConfigError: An option is unknown, or the two losses would be weighted differently in each micro-batch.
    """

    def __init__(
        self, *, mu: MuSchedule, supervised_batch_size: int, token_weighting: str = "none", **options: Any
    ) -> None:
        super().__init__(**options)
        if token_weighting not in ("none", "phi"):
            raise ConfigError(f"stage.token_weighting={token_weighting} is unknown; choose none or phi")
        if supervised_batch_size < 1:
            raise ConfigError(f"stage.supervised_batch_size={supervised_batch_size} must be at least 1")
        if self.config.loss_normalizer != "micro_batch":
            raise ConfigError("stage.loss_normalizer=accumulated_batch counts one loss's items; take micro_batch")
        self.mu, self.supervised_batch_size = mu, supervised_batch_size
        self.token_weighting = token_weighting
        self.global_step = 0  # optimizer step; the module sets it

    def training_step(self, policy: Policy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """Return the mixed loss; see :class:`~affectgpt_r1.training.base.Stage`.

        Raises:
            ConfigError: The batch brings no labelled clips.
        """
        supervised = batch.supervised
        output = super().training_step(policy, dataclasses.replace(batch, supervised=None), seed=seed)
        mu = self.mu(self.global_step)
        loss, logs = (1.0 - mu) * output.loss, {"mu": LogValue("mean", mu), "grpo_loss": output.logs["loss"]}
        if mu > 0.0:
            if supervised is None or not len(supervised):
                raise ConfigError("stage=chord: the batch has no supervised clips; use the data module's own loader")
            with self.phase("supervised"):
                targets_loss, tokens = supervised_loss(
                    policy, policy.with_features(supervised), weighting=self.token_weighting
                )
            loss = loss + mu * targets_loss
            logs["sft_loss"] = LogValue("mean", targets_loss.detach(), tokens)
        logs["loss"] = LogValue("mean", loss.detach())
        return dataclasses.replace(output, loss=loss, logs={**output.logs, **logs})
