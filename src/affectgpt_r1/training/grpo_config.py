"""The options of group relative policy optimisation, under TRL's names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from affectgpt_r1.errors import ConfigError

LossType: TypeAlias = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]
ImportanceSamplingLevel: TypeAlias = Literal["token", "sequence"]
KLEstimator: TypeAlias = Literal["k1", "k2", "k3"]
RewardScale: TypeAlias = Literal["group", "batch", "none"]
RewardAggregation: TypeAlias = Literal["sum_then_normalize", "normalize_then_sum"]
LossNormalizer: TypeAlias = Literal["micro_batch", "accumulated_batch"]

CHOICES: dict[str, Any] = {
    "loss_type": LossType,
    "importance_sampling_level": ImportanceSamplingLevel,
    "kl_estimator": KLEstimator,
    "scale_rewards": RewardScale,
    "multi_objective_aggregation": RewardAggregation,
    "loss_normalizer": LossNormalizer,
}


@dataclass(frozen=True)
class GRPOConfig:
    """What a GRPO run may switch.

    Attributes:
        num_generations: ``G`` completions of a clip.
        num_iterations: Passes over each rollout (mu).
        steps_per_generation: Micro-batches that are sampled at once and then visited one by one.
        loss_type: How token losses are reduced; see :func:`~affectgpt_r1.training.losses.aggregate`.
        loss_normalizer: What gradient accumulation averages: the losses of the micro-batches, as TRL does, or the
            items that ``loss_type`` counts (tokens or completions), whatever micro-batch they are in.
        importance_sampling_level: One ratio a token, or one a completion (GSPO, Zheng et al. 2025).
        epsilon: Lower clip range.
        epsilon_high: Upper clip range, ``epsilon`` when None; for ``cispo`` the cap of the ratio itself.
        delta: Cap of the ratio where the advantage is negative (two-sided clipping); None for no cap.
        beta: Weight of the KL penalty to the policy that training started from; 0 builds no reference.
        kl_estimator: Schulman's estimator, unclamped.
        use_bias_correction_kl: Multiply the KL estimate by the importance ratio.
        scale_rewards: Divide advantages by the deviation of the group, of the batch, or by nothing.
        multi_objective_aggregation: Sum the rewards and normalise the sum, or normalise each and sum (GDPO).
        mask_truncated_completions: Leave truncated completions out of the loss.
        truncated_leave_baseline: Leave them out of their group's mean and deviation too.
        max_resamples: Times that a group of equal rewards is drawn anew; a group that stays so is skipped and counted.
            0 keeps such groups, as TRL does.
        entropy_coef: Weight of the entropy bonus.
        top_entropy_quantile: Share of the tokens, those of highest entropy, that the policy loss keeps.

    Raises:
        ConfigError: A value is unknown or leaves nothing to learn from.
    """

    num_generations: int = 8
    num_iterations: int = 1
    steps_per_generation: int = 1
    loss_type: LossType = "grpo"
    loss_normalizer: LossNormalizer = "micro_batch"
    importance_sampling_level: ImportanceSamplingLevel = "token"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.0
    kl_estimator: KLEstimator = "k3"
    use_bias_correction_kl: bool = False
    scale_rewards: RewardScale = "group"
    multi_objective_aggregation: RewardAggregation = "sum_then_normalize"
    mask_truncated_completions: bool = False
    truncated_leave_baseline: bool = False
    max_resamples: int = 0
    entropy_coef: float = 0.0
    top_entropy_quantile: float = 1.0

    def __post_init__(self) -> None:
        """Check every value."""
        for key, choices in CHOICES.items():
            known = get_args(choices)
            if getattr(self, key) not in known:
                raise ConfigError(f"stage.{key}={getattr(self, key)} is unknown; choose among {', '.join(known)}")
        if self.num_generations < 2:
            raise ConfigError(f"stage.num_generations={self.num_generations}: a group needs at least 2 completions")
        for key, least in (("num_iterations", 1), ("steps_per_generation", 1), ("max_resamples", 0)):
            if getattr(self, key) < least:
                raise ConfigError(f"stage.{key}={getattr(self, key)} must be at least {least}")
        self._check_ranges()
        if not 0 < self.top_entropy_quantile <= 1:
            raise ConfigError(f"stage.top_entropy_quantile={self.top_entropy_quantile} must be above 0 and at most 1")
        if self.truncated_leave_baseline and not self.mask_truncated_completions:
            raise ConfigError("stage.truncated_leave_baseline needs stage.mask_truncated_completions=true")

    def _check_ranges(self) -> None:
        """Refuse numbers that would turn a term around or make it NaN."""
        ranges = {
            "epsilon": (0 <= self.epsilon <= 1, "between 0 and 1"),
            "epsilon_high": (self.epsilon_high is None or self.epsilon_high >= 0, "0 or more, or null"),
            "delta": (self.delta is None or self.delta > 1, "above 1, or null"),
            "beta": (0 <= self.beta < math.inf, "0 or more: a negative one would reward distance from the reference"),
            "entropy_coef": (math.isfinite(self.entropy_coef), "finite"),
        }
        for key, (fits, allowed) in ranges.items():
            if not fits:  # NaN fits no comparison
                raise ConfigError(f"stage.{key}={getattr(self, key)} must be {allowed}")

    @property
    def upper_epsilon(self) -> float:
        """``epsilon_high``, or ``epsilon`` where it is not set."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high
