"""The logs of a GRPO step, under TRL's names, and its rows of the completions table, both of this process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from affectgpt_r1.rewards.weighting import RewardScores
from affectgpt_r1.training.advantages import zero_std_groups
from affectgpt_r1.training.log_values import as_floats, extreme, mean_of, std_of
from affectgpt_r1.training.losses import token_mean
from affectgpt_r1.types import ClipBatch, Completion, CompletionRecord, LogValue, Rollout


def reward_logs(scores: RewardScores, num_generations: int) -> dict[str, LogValue]:
    """Return TRL's reward metrics of ``B * G`` completions."""
    total = scores.total
    logs = {
        "reward": mean_of(total),
        "reward_std": std_of(total),
        # Of groups, whatever scales the advantages; TRL's is of the batch where the batch does.
        "frac_reward_zero_std": mean_of(zero_std_groups(total.view(-1, num_generations)).float()),
    }
    for name, part in scores.rewards_per_func.items():
        logs[f"rewards/{name}/mean"] = mean_of(part)
        logs[f"rewards/{name}/std"] = std_of(part)
    return logs


def completion_logs(rollout: Rollout) -> dict[str, LogValue]:
    """Return TRL's completion metrics: lengths of all, and of those that a stop token ended (0 if there is none)."""
    lengths, truncated = rollout.completions.mask.sum(-1).flatten().cpu(), rollout.truncated.flatten().cpu()
    logs = {"completions/clipped_ratio": mean_of(truncated.float())}
    for kind, chosen in (("length", lengths), ("terminated_length", lengths[~truncated])):
        logs[f"completions/mean_{kind}"] = mean_of(chosen, empty=0.0)
        logs[f"completions/min_{kind}"] = extreme("min", chosen)
        logs[f"completions/max_{kind}"] = extreme("max", chosen)
    return as_floats(logs)


def answer_logs(statistics: Mapping[str, float], num_completions: int) -> dict[str, LogValue]:
    """Return the answers' statistics, each weighted by what it is a mean over.

    Args:
        statistics: See :func:`~affectgpt_r1.training.completions.answer_statistics`.
        num_completions: Completions that they describe.
    """
    # answer_entropy of several batches is the mean of theirs: it measures what is sampled at once.
    weights = {
        "unmapped_rate": statistics["words_per_answer"] * num_completions,
        "distinct_per_target": statistics["target_words"] * num_completions,
    }
    return {
        f"answers/{name}": LogValue("mean", value, weights.get(name, float(num_completions)))
        for name, value in statistics.items()
    }


def sampling_logs(per_token_logps: Tensor, sampling_per_token_logps: Tensor, mask: Tensor) -> dict[str, LogValue]:
    """Return how update-time and sampling-time log-probs differ: by numerics, and by what later steps have learned."""
    difference = (per_token_logps.detach() - sampling_per_token_logps).abs() * mask
    return {
        "sampling/sampling_logp_difference/mean": token_mean(difference, mask),
        "sampling/sampling_logp_difference/max": extreme("max", difference),
    }


def completion_records(
    prompts: Sequence[str],
    batch: ClipBatch,
    completions: Sequence[Completion],
    scores: RewardScores,
    advantages: Tensor,
) -> list[CompletionRecord]:
    """Return a row of the completions table for each completion, clip by clip.

    Args:
        prompts: ``B``.
        batch: ``B`` clips.
        completions: ``B * G``.
        scores: Of ``B * G`` completions.
        advantages: ``(B, G)``.
    """
    num_generations = len(completions) // len(batch)
    parts = {name: part.tolist() for name, part in scores.rewards_per_func.items()}
    totals, advantage_values = scores.total.tolist(), advantages.flatten().tolist()
    return [
        CompletionRecord(
            name=batch.names[row // num_generations],
            prompt=prompts[row // num_generations],
            target=", ".join(batch.labels[row // num_generations]),
            completion=completion.text,
            rewards={name: None if math.isnan(values[row]) else values[row] for name, values in parts.items()},
            reward=totals[row],
            advantage=advantage_values[row],
        )
        for row, completion in enumerate(completions)
    ]


def tokens_per_second(rollout: Rollout, seconds: float) -> LogValue:
    """Return completion tokens of a rollout over the seconds that sampling took, replaced groups included."""
    seconds = max(seconds, 1e-9)
    return LogValue("mean", float(torch.sum(rollout.completions.mask)) / seconds, seconds)
