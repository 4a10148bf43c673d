"""GRPO mixed with a supervised loss on labelled clips: CHORD (Zhang et al. 2025, arXiv 2508.11408; ms-swift)."""

from __future__ import annotations

import dataclasses
import math

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.base import Policy
from affectgpt_r1.training.sft import supervised_loss
from affectgpt_r1.types import ClipBatch, LogValue, Phase, StageOutput


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


def mix_supervised(
    output: StageOutput, policy: Policy, supervised: ClipBatch | None, mu: float, *, token_weighting: str, phase: Phase
) -> StageOutput:
    """Return GRPO's output with the loss ``(1 - mu) * GRPO + mu * SFT``, the latter on labelled clips.

    Args:
        output: Of the GRPO step.
        policy: The policy.
        supervised: The batch's labelled clips.
        mu: Weight of the supervised loss.
        token_weighting: ``phi`` weighs each target token by p (1 - p), so that neither what the policy knows nor what
            it would never say moves it much; ``none`` weighs all alike.
        phase: Opens the context in which the supervised part is timed.

    Raises:
        ConfigError: The batch brings no labelled clips.
    """
    loss, logs = (1.0 - mu) * output.loss, {"mu": LogValue("mean", mu), "grpo_loss": output.logs["loss"]}
    if mu > 0.0:
        if supervised is None or not len(supervised):
            raise ConfigError("stage.mu: the batch has no supervised clips; use the data module's own loader")
        with phase("supervised"):
            targets_loss, tokens = supervised_loss(policy, policy.with_features(supervised), weighting=token_weighting)
        loss = loss + mu * targets_loss
        logs["sft_loss"] = LogValue("mean", targets_loss.detach(), tokens)
    logs["loss"] = LogValue("mean", loss.detach())
    return dataclasses.replace(output, loss=loss, logs={**output.logs, **logs})
