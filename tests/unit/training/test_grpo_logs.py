"""Figures of several processes are those of one that holds all their completions."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.rewards.weighting import RewardScores
from affectgpt_r1.training import completions
from affectgpt_r1.training.log_values import as_floats, pooled
from affectgpt_r1.types import LogValue, Rollout, TokenBatch

NAN = float("nan")


def rollout(lengths: list[list[int]]) -> Rollout:
    """Completions of up to 5 tokens; those of 5 are truncated."""
    counts = torch.tensor(lengths)
    mask = (torch.arange(5) < counts.unsqueeze(-1)).float()
    return Rollout(TokenBatch(mask.long(), mask), mask, [], counts == 5)


def scores(total: list[float], letters: list[float]) -> RewardScores:
    return RewardScores(torch.tensor(total), {"letters": torch.tensor(letters)})


def numbers(*logs: dict[str, LogValue]) -> dict[str, float]:
    """What is logged of micro-batches, or processes, that logged these."""
    return {name: float(value) for name, value in pooled(map(as_floats, logs)).items()}


def test_rewards_of_every_process():
    mine, others = ([1.0, 0.0, 3.0, 3.0], [1.0, NAN, 3.0, 3.0]), ([2.0, 2.0], [NAN, 2.0])
    full = numbers(completions.reward_logs(scores(*(a + b for a, b in zip(mine, others, strict=True))), 2))
    assert full["reward"] == pytest.approx(11 / 6)
    assert full["reward_std"] == pytest.approx(torch.tensor(mine[0] + others[0]).std().item())
    assert full["frac_reward_zero_std"] == pytest.approx(2 / 3)
    assert full["rewards/letters/mean"] == pytest.approx(9 / 4)
    parts = [completions.reward_logs(scores(*part), 2) for part in (mine, others)]
    assert numbers(*parts) == pytest.approx(full, abs=1e-12)


def test_lengths_of_every_process():
    full = numbers(completions.completion_logs(rollout([[1, 5], [2, 4], [3, 5]])))
    assert full == {
        "completions/clipped_ratio": pytest.approx(1 / 3),
        "completions/mean_length": pytest.approx(20 / 6),
        "completions/min_length": 1.0,
        "completions/max_length": 5.0,
        "completions/mean_terminated_length": 2.5,
        "completions/min_terminated_length": 1.0,
        "completions/max_terminated_length": 4.0,
    }
    parts = [completions.completion_logs(rollout(lengths)) for lengths in ([[1, 5]], [[2, 4], [3, 5]])]
    assert numbers(*parts) == pytest.approx(full, abs=1e-12)
    cut = completions.completion_logs(rollout([[5, 5]]))  # nothing ended: its 0 must not count as a length
    assert numbers(cut, *parts)["completions/min_terminated_length"] == 1.0
    assert numbers(cut, *parts)["completions/mean_terminated_length"] == 2.5


def test_nothing_terminated():
    logs = numbers(completions.completion_logs(rollout([[5, 5]])))
    assert logs["completions/clipped_ratio"] == 1.0
    assert logs["completions/mean_terminated_length"] == 0.0


def test_differences_of_every_process_weigh_by_tokens():
    """A mean of means would be 0.625."""
    mine = completions.sampling_logs(
        torch.tensor([[-1.0, -9.0]]), torch.tensor([[-1.5, 0.0]]), torch.tensor([[1.0, 0.0]])
    )
    others = completions.sampling_logs(torch.zeros(1, 3), torch.full((1, 3), 0.75), torch.ones(1, 3))
    logs = numbers(mine, others)
    assert logs["sampling/sampling_logp_difference/max"] == 0.75
    assert logs["sampling/sampling_logp_difference/mean"] == (0.5 + 3 * 0.75) / 4


def test_shares_of_answers_weigh_by_what_they_are_shares_of():
    """Of 1 and of 3 x 3 words, 1 and 0 are unmapped: a tenth, not a half."""
    first = {"words_per_answer": 1.0, "target_words": 2.0, "unmapped_rate": 1.0, "distinct_per_target": 0.5}
    second = {"words_per_answer": 3.0, "target_words": 1.0, "unmapped_rate": 0.0, "distinct_per_target": 3.0}
    logs = numbers(completions.answer_logs(first, 1), completions.answer_logs(second, 3))
    assert logs["answers/unmapped_rate"] == pytest.approx(1 / 10)
    assert logs["answers/words_per_answer"] == pytest.approx(10 / 4)
    assert logs["answers/distinct_per_target"] == pytest.approx((1 + 9) / 5)


def test_the_rate_of_sampling_is_all_tokens_over_all_seconds():
    slow, fast = rollout([[1, 1]]), rollout([[5, 5]])
    logs = numbers(
        {"rate": completions.tokens_per_second(slow, 8.0)}, {"rate": completions.tokens_per_second(fast, 2.0)}
    )
    assert logs["rate"] == pytest.approx(12 / 10)
