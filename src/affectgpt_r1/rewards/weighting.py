"""The weighted sum of reward parts."""

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

    total: Tensor  # (N,) float32; NaN where no part applied
    parts: dict[str, Tensor]  # name -> (N,) float32; NaN where the part did not apply


class WeightedRewards:
    """``sum_k w_k r_k`` over the parts that apply to a completion.

    Args:
        rewards: The parts, by the name under which they are logged.
        weights: A weight for each part.
        overlong_tokens: Adds the part ``overlong`` of weight 1, which falls from 0 to -1 over this many tokens before
            the limit; None adds none.
        max_completion_length: The limit; needed with ``overlong_tokens``.

    Raises:
        ConfigError: ``rewards`` and ``weights`` name different parts, there is none, a weight is NaN or infinite, all
            weights are 0, or every part reads a reasoning for which the prompt does not ask.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float],
        *,
        overlong_tokens: int | None = None,
        max_completion_length: int | None = None,
    ) -> None:
        if set(rewards) != set(weights) or not rewards:
            raise ConfigError(
                f"reward.rewards names {sorted(rewards)} and reward.weights {sorted(weights)}: each needs one weight"
            )
        if not any(getattr(reward, "enable_thinking", True) for reward in rewards.values()):
            raise ConfigError(f"reward.rewards {sorted(rewards)} read the reasoning: take prompt=think, or reward=all")
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
        """The parts that score a completion by itself, with their weights; None where none of them counts."""
        alone = {name: one for name, one in self.rewards.items() if not getattr(one, "compares_group", False)}
        weights = {name: self.weights[name] for name in alone}
        return WeightedRewards(alone, weights) if any(weights.values()) else None

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> RewardScores:
        """Score ``N`` completions against their targets.

        Raises:
            ConfigError: A reward returned a wrong number of scores.
            TrainingError: A score, or the weighted sum, is infinite; names the reward and the clip. None and NaN say
                that a reward does not apply to a completion; infinity would silently give its group no advantage.
        """
        parts = {name: torch.tensor(self._checked(name, completions, targets)) for name in self.rewards}
        for name, part in parts.items():
            _refuse_infinite(f"reward {name}", part, completions)  # before the weight: 0 times infinity is NaN
        stacked = torch.stack([self.weights[name] * part for name, part in parts.items()])
        total = stacked.nansum(0).masked_fill(stacked.isnan().all(0), float("nan"))
        _refuse_infinite(f"the weighted sum of the rewards {', '.join(parts)}", total, completions)
        return RewardScores(total, parts)

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
