"""The weighted sum of the reward functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.errors import ConfigError, TrainingError
from affectgpt_r1.rewards.base import Reward
from affectgpt_r1.rewards.overlong import OverlongReward
from affectgpt_r1.types import Completion, EmotionSet


class RewardScores(NamedTuple):
    """Scores of ``N`` completions."""

    total: Tensor  # (N,) float32; NaN where no reward function applied
    rewards_per_func: dict[str, Tensor]  # name -> (N,) float32; NaN where the function did not apply


class WeightedRewards:
    """``sum_k w_k r_k`` over the reward functions that apply to a completion.

    ``overlong_tokens`` adds :class:`OverlongReward` with this ramp, as ``overlong`` of weight 1.
    ``multi_objective_aggregation`` is what ``stage.multi_objective_aggregation`` is by default: only advantages use it.

    Raises:
        ConfigError: ``rewards`` and ``weights`` have different names, there is none, a weight is NaN or infinite, all
            weights are 0, or every function reads a reasoning for which the prompt does not ask.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float],
        *,
        overlong_tokens: int | None = None,
        max_completion_length: int | None = None,
        multi_objective_aggregation: str = "sum_then_normalize",
    ) -> None:
        if set(rewards) != set(weights) or not rewards:
            raise ConfigError(
                f"reward.rewards names {sorted(rewards)} and reward.weights {sorted(weights)}: each needs one weight"
            )
        if not any(getattr(reward, "enable_thinking", True) for reward in rewards.values()):
            raise ConfigError(f"reward.rewards {sorted(rewards)} read the reasoning: take prompt=think, or reward=all")
        self.multi_objective_aggregation = multi_objective_aggregation
        self.rewards = dict(rewards)
        self.weights = {name: float(weight) for name, weight in weights.items()}
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ConfigError(f"reward.weights.{name}={weight}: give a finite number, or leave the reward out")
        if not any(self.weights.values()) and overlong_tokens is None:
            raise ConfigError(f"reward.weights of {sorted(weights)} are all 0: no completion would earn anything")
        if overlong_tokens is not None:
            if max_completion_length is None:
                raise ConfigError("penalty.overlong_tokens needs reward.max_completion_length")
            self.rewards["overlong"] = OverlongReward(max_completion_length, overlong_tokens)
            self.weights["overlong"] = 1.0

    def without_comparisons(self) -> WeightedRewards | None:
        """Return the functions that score a completion by itself, with their weights; None where all weights are 0."""
        alone = {name: func for name, func in self.rewards.items() if not getattr(func, "compares_group", False)}
        weights = {name: self.weights[name] for name in alone}
        return WeightedRewards(alone, weights) if any(weights.values()) else None

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> RewardScores:
        """Score ``N`` completions against their targets.

        Raises:
            ConfigError: A reward returned a wrong number of scores.
            TrainingError: A score, or the weighted sum, is infinite, which would silently give its group no advantage.
        """
        per_func = {name: torch.tensor(self._checked(name, completions, targets)) for name in self.rewards}
        for name, scores in per_func.items():
            _refuse_infinite(f"reward {name}", scores, completions)  # before the weight: 0 times infinity is NaN
        weighted = torch.stack([self.weights[name] * scores for name, scores in per_func.items()])  # (R, N)
        # r = sum_k w_k r_k over the functions that apply. nansum is 0 where none does; NaN keeps such a completion out
        # of its group's baseline.
        total = weighted.nansum(0).masked_fill(weighted.isnan().all(0), float("nan"))
        _refuse_infinite(f"the weighted sum of the rewards {', '.join(per_func)}", total, completions)
        return RewardScores(total, per_func)

    def _checked(self, name: str, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float]:
        """Return one number for each completion; a list in a list, or an array ``(N, 1)``, would be broadcast."""
        scores = self.rewards[name](completions=completions, targets=targets)
        if not hasattr(scores, "__len__") or len(scores) != len(completions):
            what = f"{len(scores)} scores" if hasattr(scores, "__len__") else f"{type(scores).__name__}"
            raise ConfigError(
                f"reward {name} returned {what} for {len(completions)} completions; return a list with one number for "
                "each, None where it does not apply"
            )
        return [float("nan") if score is None else _as_number(name, score) for score in scores]


def _as_number(name: str, score: Any) -> float:
    number = score.item() if getattr(score, "ndim", None) == 0 else score  # of NumPy or torch
    if not isinstance(number, int | float):
        raise ConfigError(f"reward {name} returned {score!r} for a completion; return a number, or None")
    return float(number)


def _refuse_infinite(what: str, scores: Tensor, completions: Sequence[Completion]) -> None:
    infinite = scores.isinf().nonzero().flatten().tolist()
    if infinite:
        completion = completions[infinite[0]]
        where = f"clip {completion.clip}" if completion.clip else "a completion without clip"
        raise TrainingError(
            f"{what} is {scores[infinite[0]].item()} for {where}, {completion.text[:80]!r}: return a finite "
            "number, or None where the reward does not apply"
        )
