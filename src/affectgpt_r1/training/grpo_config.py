"""The options of group relative policy optimisation, under TRL's names where TRL has them."""

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
SamplingCorrection: TypeAlias = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

CHOICES: dict[str, Any] = {
    "loss_type": LossType,
    "importance_sampling_level": ImportanceSamplingLevel,
    "kl_estimator": KLEstimator,
    "scale_rewards": RewardScale,
    "multi_objective_aggregation": RewardAggregation,
    "loss_normalizer": LossNormalizer,
    "vllm_importance_sampling_mode": SamplingCorrection,
}


@dataclass(frozen=True)
class GRPOConfig:
    """The switches of a GRPO run.

    Raises:
        ConfigError: A value is unknown or leaves nothing to learn from.
    """

    num_generations: int = 8  # G completions of a clip
    num_iterations: int = 1  # passes over each rollout (mu)
    steps_per_generation: int = 1  # micro-batches that are sampled at once and then visited one by one
    loss_type: LossType = "grpo"  # how token losses are reduced, see losses.aggregate
    # What gradient accumulation averages: the losses of the micro-batches, as TRL does, or the items that loss_type
    # counts (tokens or completions), whatever micro-batch they are in.
    loss_normalizer: LossNormalizer = "micro_batch"
    importance_sampling_level: ImportanceSamplingLevel = "token"  # one ratio per token, or per completion (GSPO)
    epsilon: float = 0.2  # lower clip range
    epsilon_high: float | None = None  # upper clip range, epsilon when None; for cispo the cap of the ratio itself
    delta: float | None = None  # cap of the ratio where the advantage is negative (two-sided clipping)
    beta: float = 0.0  # weight of the KL penalty to the policy that training started from; 0 builds no reference
    kl_estimator: KLEstimator = "k3"  # Schulman's, unclamped
    use_bias_correction_kl: bool = False  # multiply the KL estimate by the importance ratio
    scale_rewards: RewardScale = "group"  # whose deviation divides the advantages: the group's, the batch's, or none
    # Sum the rewards and normalise the sum, or normalise each and sum (GDPO).
    multi_objective_aggregation: RewardAggregation = "sum_then_normalize"
    mask_truncated_completions: bool = False  # leave truncated completions out of the loss
    truncated_leave_baseline: bool = False  # leave them out of their group's mean and deviation, too
    # Dynamic sampling (DAPO): times that a zero-std group is resampled; one that stays so is left out of the loss and
    # counted in groups/filtered. 0 keeps such groups, as TRL does.
    max_resamples: int = 0
    entropy_coef: float = 0.0  # weight of the entropy bonus
    top_entropy_quantile: float = 1.0  # fraction of the tokens, those of highest entropy, that the policy loss keeps

    # Weight and margin (nats per token) of a penalty on completions whose log-probs hardly change when a modality is
    # masked; see losses.faithfulness_loss. 0 runs no second pass.
    faithfulness_coef: float = 0.0
    faithfulness_margin: float = 0.5

    # Where a server samples (rollout=vllm): weigh tokens by exp(logp_old - logp_sampling), see
    # losses.sampling_correction. Weights are cut to the bounds, or (_mask) set to 0 outside of them.
    vllm_importance_sampling_correction: bool = True
    vllm_importance_sampling_mode: SamplingCorrection = "token_truncate"
    vllm_importance_sampling_clip_max: float | None = 3.0
    vllm_importance_sampling_clip_min: float | None = None

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

    @property
    def corrects_sequences(self) -> bool:
        """Whether completions have one importance weight each, and not their tokens."""
        return self.vllm_importance_sampling_mode.startswith("sequence")

    def _check_ranges(self) -> None:
        """Refuse numbers that would flip a term's sign or make it NaN."""
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        ranges = {
            "epsilon": (0 <= self.epsilon <= 1, "between 0 and 1"),
            "epsilon_high": (self.epsilon_high is None or self.epsilon_high >= 0, "0 or more, or null"),
            "delta": (self.delta is None or self.delta > 1, "above 1, or null"),
            "beta": (0 <= self.beta < math.inf, "0 or more: a negative one would reward distance from the reference"),
            "faithfulness_coef": (0 <= self.faithfulness_coef < math.inf, "0 or more"),
            "faithfulness_margin": (0 < self.faithfulness_margin < math.inf, "above 0"),
            "entropy_coef": (math.isfinite(self.entropy_coef), "finite"),
            "vllm_importance_sampling_clip_max": (high is None or high > 0, "above 0, or null"),
            "vllm_importance_sampling_clip_min": (
                low is None or 0 <= low < (math.inf if high is None else high),
                "0 or more and below vllm_importance_sampling_clip_max, or null",
            ),
        }
        for key, (fits, allowed) in ranges.items():
            if not fits:  # NaN fits no comparison
                raise ConfigError(f"stage.{key}={getattr(self, key)} must be {allowed}")
