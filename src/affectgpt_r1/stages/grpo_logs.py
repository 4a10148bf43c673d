"""What a GRPO step logs of all processes, under TRL's names, and this process's rows of the completions table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from affectgpt_r1.functional.advantages import nan_std, zero_variance_groups
from affectgpt_r1.functional.collective import gather_over_processes
from affectgpt_r1.rewards.weighting import RewardScores
from affectgpt_r1.types import ClipBatch, Completion, CompletionRecord, Rollout


def reward_logs(scores: RewardScores, num_generations: int, device: torch.device) -> dict[str, float]:
    """TRL's reward metrics: ``reward``, ``reward_std``, ``frac_reward_zero_std``, ``rewards/<name>/{mean,std}``.

    ``frac_reward_zero_std`` is the share of groups whatever scales the advantages.

    Args:
        scores: Of ``B * G`` completions.
        num_generations: ``G``.
        device: The policy's, on which processes can gather.
    """
    everyone = gather_over_processes(torch.stack([scores.total, *scores.parts.values()], -1).to(device))
    total, *parts = everyone.unbind(-1)
    logs = {
        "reward": total.nanmean(),
        "reward_std": nan_std(total),
        "frac_reward_zero_std": zero_variance_groups(total.view(-1, num_generations)).float().mean(),
    }
    for name, part in zip(scores.parts, parts, strict=True):
        logs[f"rewards/{name}/mean"] = part.nanmean()
        logs[f"rewards/{name}/std"] = nan_std(part)
    return {name: value.item() for name, value in logs.items()}


def completion_logs(rollout: Rollout) -> dict[str, float]:
    """TRL's completion metrics: lengths in tokens, of all and of those that a stop token ended."""
    lengths = rollout.completions.mask.sum(-1).flatten()
    lengths, truncated = gather_over_processes(torch.stack([lengths, rollout.truncated.flatten()], -1)).unbind(-1)
    terminated = lengths[truncated == 0]
    if not len(terminated):
        terminated = lengths.new_zeros(1)
    logs = {"completions/clipped_ratio": truncated.mean()}
    for kind, chosen in (("length", lengths), ("terminated_length", terminated)):
        logs[f"completions/mean_{kind}"] = chosen.mean()
        logs[f"completions/min_{kind}"] = chosen.min()
        logs[f"completions/max_{kind}"] = chosen.max()
    return {name: value.item() for name, value in logs.items()}


def sampling_logs(per_token_logps: Tensor, sampling_per_token_logps: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Difference of update-time and sampling-time log-probs: of numerics, and of what later steps have learned."""
    difference = (per_token_logps.detach() - sampling_per_token_logps).abs() * mask
    return {
        "sampling/sampling_logp_difference/mean": difference.sum() / mask.sum().clamp(min=1.0),
        "sampling/sampling_logp_difference/max": gather_over_processes(difference.amax().view(1)).amax(),
    }


def completion_records(
    prompts: Sequence[str],
    batch: ClipBatch,
    completions: Sequence[Completion],
    scores: RewardScores,
    advantages: Tensor,
) -> list[CompletionRecord]:
    """A row of the completions table for each completion, clip by clip.

    Args:
        prompts: ``B``.
        batch: ``B`` clips.
        completions: ``B * G``.
        scores: Of ``B * G`` completions.
        advantages: ``(B, G)``.
    """
    num_generations = len(completions) // len(batch)
    parts = {name: part.tolist() for name, part in scores.parts.items()}
    totals, advantage_values = scores.total.tolist(), advantages.flatten().tolist()
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


def tokens_per_second(rollout: Rollout, seconds: float) -> float:
    """Completion tokens of a rollout over the seconds that sampling took, discarded groups included."""
    return float(torch.sum(rollout.completions.mask)) / max(seconds, 1e-9)
