"""Signs that the reward is earned without the task: what a constant answer earns, and which part follows the metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.metrics.constant_baselines import CONSTANT_ANSWER, best_constant_answer
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.log_values import mean_of
from affectgpt_r1.types import Completion, EmotionSet, LogValue


class HackingProbe:
    """Probes the current reward, its comparisons inside a group left out.

    Args:
        rewards: The stage's rewards.
        lexicon: The words' clusters.
        validation_targets: Choose the five words that pay best there; without any, only "happy, sad, angry" is tried.
        enable_thinking: Whether the prompt asks for reasoning; a constant completion then reasons with the same words.
    """

    def __init__(
        self,
        rewards: WeightedRewards,
        lexicon: Lexicon,
        validation_targets: Sequence[EmotionSet],
        *,
        enable_thinking: bool,
    ) -> None:
        self.rewards = rewards.without_comparisons()
        self.lexicon = lexicon
        self.constant_answers = {"constant3": CONSTANT_ANSWER}
        if validation_targets:
            self.constant_answers["constant5"] = best_constant_answer(validation_targets, lexicon)
        self._completions = {
            name: _constant_completion(spray, enable_thinking) for name, spray in self.constant_answers.items()
        }
        self._earned: dict[tuple[str, EmotionSet], float] = {}

    def constant_answer_rewards(self, targets: Sequence[EmotionSet]) -> dict[str, LogValue]:
        """Mean reward that each constant answer would earn.

        Args:
            targets: Of the clips at hand.

        Returns:
            ``constant3_reward``, and ``constant5_reward`` where it was chosen; empty without targets or where every
            part of the reward compares a group.
        """
        if self.rewards is None or not targets:
            return {}
        means = {}
        for name in self.constant_answers:
            new = [target for target in dict.fromkeys(targets) if (name, target) not in self._earned]
            scores = self.rewards(completions=[self._completions[name]] * len(new), targets=new) if new else None
            if scores is not None:
                self._earned |= {(name, key): value for key, value in zip(new, scores.total.tolist(), strict=True)}
            means[f"{name}_reward"] = mean_of(torch.tensor([self._earned[name, target] for target in targets]))
        return means

    def part_correlations(
        self, completions: Sequence[Completion], targets: Sequence[EmotionSet]
    ) -> Mapping[str, float]:
        """Spearman's correlation over clips of each reward part with the wheel F of the answer.

        A part that does not rise with F on held-out clips is one that training can raise for nothing.

        Args:
            completions: Held-out answers, one a clip.
            targets: Their targets.

        Returns:
            ``spearman/<part>``; a part that is equal on all clips has no correlation and is left out.
        """
        if self.rewards is None:
            return {}
        labels = [completion.labels for completion in completions]
        f1 = torch.tensor([_nan_if_none(score) for score in batch_mean_set_f1(labels, targets, self.lexicon)])
        parts = self.rewards(completions=completions, targets=targets).parts
        found = {name: spearman(part.double(), f1.double()) for name, part in parts.items()}
        return {f"spearman/{name}": value for name, value in found.items() if value is not None}


def spearman(first: Tensor, second: Tensor) -> float | None:
    """Spearman's rank correlation of the pairs that have both values.

    Args:
        first: ``(N,)``, on the CPU; pairs with a NaN are left out.
        second: ``(N,)``.

    Returns:
        A number in [-1, 1], None where fewer than two pairs are left or one side is constant.
    """
    both = ~(first.isnan() | second.isnan())
    if both.sum() < 2:
        return None
    x, y = first[both].numpy(), second[both].numpy()
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)


def _constant_completion(words: EmotionSet, enable_thinking: bool) -> Completion:
    said = ", ".join(words)
    reasoning = f"<think> The person seems {said}. </think> " if enable_thinking else ""
    return parse_completion(f"{reasoning}<answer> {said} </answer>", enable_thinking=enable_thinking)


def _nan_if_none(score: float | None) -> float:
    return float("nan") if score is None else score
