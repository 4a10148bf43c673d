"""Signs that the reward is earned without the task: what a constant answer earns, and which reward follows F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from scipy import stats
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather_objects
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.metrics.constant_baselines import CONSTANT_ANSWER, best_constant_answer
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.log_values import log_state, logs_from_state, mean_of
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.types import Completion, EmotionSet, LogValue


class RewardHackingProbe(pl.Callback):
    """Log as ``train/hacking/<name>`` and ``val/hacking/<name>`` what :class:`HackingProbe` finds of a stage's rewards.

    Stages without rewards log nothing.
    """

    def __init__(self) -> None:
        self._probe: HackingProbe | None = None
        self._logs: dict[str, LogValue] = {}  # of the newest generation batch
        self._answers: list[tuple[Completion, EmotionSet]] = []  # of the current validation, with their targets

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the constant answers by the validation clips."""
        assert isinstance(pl_module, AffectModule)
        stage: object = pl_module.stage
        if isinstance(stage, GRPOStage):
            splits = trainer.datamodule.splits  # type: ignore[attr-defined]
            targets = [row.labels for row in splits.validation]
            thinks = pl_module.policy.enable_thinking
            self._probe = HackingProbe(stage.rewards, stage.lexicon, targets, enable_thinking=thinks)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add to the step's logs what the constant answers earn on a generation batch, at each step that visits it."""
        assert isinstance(pl_module, AffectModule)
        if self._probe is None:
            return
        if len(batch):
            rewards = self._probe.constant_answer_rewards(batch.labels)
            self._logs = {f"hacking/{name}": value for name, value in rewards.items()}
        pl_module.accumulated.add_logs(self._logs, repeated=() if len(batch) else self._logs)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the answers."""
        if self._probe is not None and outputs["completions"]:
            self._answers.extend(zip(outputs["completions"], batch.labels, strict=True))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Probe the rewards on the answers of all processes."""
        if self._probe is None:
            return
        gathered, self._answers = all_gather_objects(self._answers), []
        answers = [answer for of_process in gathered for answer in of_process]
        if not answers:
            return
        completions, targets = [completion for completion, _ in answers], [target for _, target in answers]
        signs: dict[str, LogValue | float] = {
            **self._probe.constant_answer_rewards(targets),
            **self._probe.part_correlations(completions, targets),
        }
        pl_module.log_dict({f"val/hacking/{name}": float(value) for name, value in signs.items()})

    def process_state(self) -> dict[str, Any]:
        """Return the logs of a generation batch that later steps visit."""
        return {"probe_logs": log_state(self._logs)}

    def load_process_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`process_state`."""
        self._logs = logs_from_state(state.get("probe_logs", {}))


class HackingProbe:
    """Probe a reward, without the reward functions that compare the completions of a group.

    Args:
        rewards: The stage's rewards.
        lexicon: The words' clusters.
        validation_targets: Choose the five words that earn most there; without any, only "happy, sad, angry" is tried.
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
            name: _constant_completion(words, enable_thinking) for name, words in self.constant_answers.items()
        }
        self._earned: dict[tuple[str, EmotionSet], float] = {}

    def constant_answer_rewards(self, targets: Sequence[EmotionSet]) -> dict[str, LogValue]:
        """Return the mean reward that each constant answer would earn on clips of these targets.

        Returns:
            ``constant3_reward``, and ``constant5_reward`` where it was chosen; empty without targets or where every
            reward function compares a group.
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
        """Return Spearman's correlation over clips of each reward function with the answer's wheel F1.

        A function that does not rise with F1 on validation clips is one that training can raise for nothing.

        Returns:
            ``spearman/<name>``; a function that is equal on all clips has no correlation and is left out.
        """
        if self.rewards is None:
            return {}
        labels = [completion.labels for completion in completions]
        f1 = torch.tensor([_nan_if_none(score) for score in batch_mean_set_f1(labels, targets, self.lexicon)])
        parts = self.rewards(completions=completions, targets=targets).rewards_per_func
        correlations = {name: spearman(part.double(), f1.double()) for name, part in parts.items()}
        return {f"spearman/{name}": value for name, value in correlations.items() if value is not None}


def spearman(first: Tensor, second: Tensor) -> float | None:
    """Return Spearman's rank correlation of two ``(N,)`` tensors on the CPU, without the pairs that have a NaN.

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
