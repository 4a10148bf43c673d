"""Group relative policy optimisation on the emotion-wheel reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.functional.advantages import group_advantages, zero_variance_groups
from affectgpt_r1.functional.logprobs import masked_mean
from affectgpt_r1.functional.losses import LossType, clipped_policy_loss
from affectgpt_r1.policy.base import Policy, TokenScores
from affectgpt_r1.rewards.weighting import RewardScores, WeightedRewards
from affectgpt_r1.stages.answers import answer_statistics, parse_rollout
from affectgpt_r1.types import ClipBatch, Completion, CompletionRecord, Rollout, Sampling, StageOutput


class GRPOStage:
    """Samples a group of completions for each clip and reinforces those above the group's mean.

    Args:
        rewards: The weighted rewards.
        lexicon: For the statistics of the answers.
        sampling: How completions are drawn; log-probs are taken at its temperature.
        num_generations: ``G`` completions of a clip.
        beta: Weight of the KL penalty to the policy that training started from; 0 builds no reference.
        epsilon: Lower clip range.
        epsilon_high: Upper clip range; ``epsilon`` when None.
        loss_type: ``grpo``, ``bnpo`` or ``dr_grpo``.
        scale_rewards: Divide advantages by the group's standard deviation.

    Raises:
        ConfigError: A group of fewer than two, or greedy sampling: neither has a gradient.
    """

    answers = True

    def __init__(
        self,
        rewards: WeightedRewards,
        lexicon: Lexicon,
        sampling: Sampling,
        *,
        num_generations: int = 8,
        beta: float = 0.0,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        loss_type: LossType = "grpo",
        scale_rewards: bool = True,
    ) -> None:
        if num_generations < 2:
            raise ConfigError(f"stage.num_generations={num_generations}: a group needs at least 2 completions")
        if sampling.temperature <= 0:
            raise ConfigError("stage.sampling.temperature must be above 0: equal completions have no advantage")
        self.rewards = rewards
        self.lexicon = lexicon
        self.sampling = sampling
        self.num_generations = num_generations
        self.beta = beta
        self.epsilon = epsilon
        self.epsilon_high = epsilon_high
        self.loss_type = loss_type
        self.scale_rewards = scale_rewards

    def prepare(self, policy: Policy) -> None:
        """Freeze a copy of the weights that training starts from, if KL is measured against it."""
        if self.beta != 0.0:
            policy.snapshot_reference()

    def training_step(self, policy: Policy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """See :class:`~affectgpt_r1.stages.base.Stage`."""
        batch = policy.with_features(batch)
        rollout = policy.generate(batch, self.num_generations, self.sampling, _generator(seed, policy))
        completions = parse_rollout(rollout, batch.names, thinks=policy.thinks)
        targets = [target for target in batch.labels for _ in range(self.num_generations)]
        scores = self.rewards(completions=completions, targets=targets)
        rewards = scores.total.view(len(batch), self.num_generations)
        advantages = group_advantages(rewards, scale=self.scale_rewards).to(rollout.completions.mask.device)
        reference = self._reference_logps(policy, batch, rollout)
        scored = policy.score(batch, rollout.completions, self.sampling.temperature)
        mask = rollout.completions.mask.flatten(0, 1)
        loss = clipped_policy_loss(
            scored.per_token_logps.flatten(0, 1),
            scored.per_token_logps.detach().flatten(0, 1),
            advantages.flatten(),
            mask,
            ref_per_token_logps=None if reference is None else reference.flatten(0, 1),
            beta=self.beta,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            loss_type=self.loss_type,
            max_completion_length=self.sampling.max_completion_length,
        )
        logs: dict[str, Tensor | float] = {
            "loss": loss.loss.detach(),
            "clip_ratio/low_mean": loss.clip_low,
            "clip_ratio/high_mean": loss.clip_high,
            **({"kl": loss.kl} if reference is not None else {}),
            **reward_logs(rewards, scores),
            **completion_logs(rollout, scored),
            **{f"answers/{name}": value for name, value in answer_statistics(completions, self.lexicon).items()},
        }
        records = completion_records(policy.prompts(batch), batch, completions, scores, advantages.flatten())
        return StageOutput(loss.loss, logs, records)

    def validation_step(self, policy: Policy, batch: ClipBatch) -> Mapping[str, Tensor]:
        """Nothing beside the wheel scores of the greedy answers."""
        return {}

    @torch.no_grad()
    def _reference_logps(self, policy: Policy, batch: ClipBatch, rollout: Rollout) -> Tensor | None:
        if self.beta == 0.0:
            return None
        with policy.reference():
            return policy.per_token_logps(batch, rollout.completions, self.sampling.temperature)


def reward_logs(rewards: Tensor, scores: RewardScores) -> dict[str, Tensor]:
    """TRL's reward metrics: ``reward``, ``reward_std``, ``frac_reward_zero_std``, ``rewards/<name>/{mean,std}``.

    Args:
        rewards: ``(B, G)``.
        scores: The parts.
    """
    logs = {
        "reward": rewards.nanmean(),
        "reward_std": rewards.nan_to_num().std(1).mean(),
        "frac_reward_zero_std": zero_variance_groups(rewards).float().mean(),
    }
    for name, part in scores.parts.items():
        logs[f"rewards/{name}/mean"] = part.nanmean()
        logs[f"rewards/{name}/std"] = part[~part.isnan()].std()
    return logs


def completion_logs(rollout: Rollout, scored: TokenScores) -> dict[str, Tensor]:
    """TRL's completion metrics, and the sampling-time against update-time difference of log-probs."""
    mask = rollout.completions.mask
    lengths = mask.sum(-1)
    terminated = lengths[~rollout.truncated]
    difference = (scored.per_token_logps.detach() - rollout.per_token_logps).abs() * mask
    return {
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": rollout.truncated.float().mean(),
        "completions/mean_terminated_length": terminated.mean() if len(terminated) else lengths.new_zeros(()),
        "entropy": masked_mean(scored.entropies, mask),
        "sampling/sampling_logp_difference/max": difference.max(),
    }


def completion_records(
    prompts: Sequence[str],
    batch: ClipBatch,
    completions: Sequence[Completion],
    scores: RewardScores,
    advantages: Tensor,
) -> list[CompletionRecord]:
    """A row of the completions table for each completion, clip by clip."""
    num_generations = len(completions) // len(batch)
    parts = {name: part.tolist() for name, part in scores.parts.items()}
    totals, advantage_values = scores.total.tolist(), advantages.tolist()
    return [
        CompletionRecord(
            name=batch.names[row // num_generations],
            prompt=prompts[row // num_generations],
            target=", ".join(batch.labels[row // num_generations]),
            completion=completion.text,
            rewards={name: None if values[row] != values[row] else values[row] for name, values in parts.items()},
            reward=totals[row],
            advantage=advantage_values[row],
        )
        for row, completion in enumerate(completions)
    ]


def _generator(seed: int, policy: Policy) -> torch.Generator:
    return torch.Generator(device=policy.device).manual_seed(seed)
