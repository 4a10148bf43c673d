"""Figures of several processes are those of one that holds all their completions."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.rewards.weighting import RewardScores
from affectgpt_r1.stages import grpo_logs
from affectgpt_r1.types import Rollout, TokenBatch

NAN = float("nan")


def rollout(lengths: list[list[int]]) -> Rollout:
    """Completions of up to 5 tokens; those of 5 are truncated."""
    counts = torch.tensor(lengths)
    mask = (torch.arange(5) < counts.unsqueeze(-1)).float()
    return Rollout(TokenBatch(mask.long(), mask), mask, [], counts == 5)


def scores(total: list[float], letters: list[float]) -> RewardScores:
    return RewardScores(torch.tensor(total), {"letters": torch.tensor(letters)})


@pytest.fixture
def beside(monkeypatch):
    """``beside(rows)``: another process that holds these rows."""

    def add(rows: torch.Tensor) -> None:
        monkeypatch.setattr(grpo_logs, "gather_over_processes", lambda own: torch.cat([own, rows]))

    return add


def test_rewards_of_every_process(beside):
    mine, others = ([1.0, 0.0, 3.0, 3.0], [1.0, NAN, 3.0, 3.0]), ([2.0, 2.0], [NAN, 2.0])
    whole = grpo_logs.reward_logs(scores(*(a + b for a, b in zip(mine, others, strict=True))), 2, torch.device("cpu"))
    assert whole["reward"] == pytest.approx(11 / 6)
    assert whole["reward_std"] == pytest.approx(torch.tensor(mine[0] + others[0]).std().item())
    assert whole["frac_reward_zero_std"] == pytest.approx(2 / 3)
    assert whole["rewards/letters/mean"] == pytest.approx(9 / 4)
    beside(torch.tensor(others).T)
    assert grpo_logs.reward_logs(scores(*mine), 2, torch.device("cpu")) == whole


def test_lengths_of_every_process(beside):
    whole = grpo_logs.completion_logs(rollout([[1, 5], [2, 4], [3, 5]]))
    assert whole == {
        "completions/clipped_ratio": pytest.approx(1 / 3),
        "completions/mean_length": pytest.approx(20 / 6),
        "completions/min_length": 1.0,
        "completions/max_length": 5.0,
        "completions/mean_terminated_length": 2.5,
        "completions/min_terminated_length": 1.0,
        "completions/max_terminated_length": 4.0,
    }
    beside(torch.tensor([[2.0, 0.0], [4.0, 0.0], [3.0, 0.0], [5.0, 1.0]]))
    assert grpo_logs.completion_logs(rollout([[1, 5]])) == whole


def test_nothing_terminated():
    logs = grpo_logs.completion_logs(rollout([[5, 5]]))
    assert logs["completions/clipped_ratio"] == 1.0
    assert logs["completions/mean_terminated_length"] == 0.0


def test_the_greatest_difference_of_every_process(beside):
    mask = torch.tensor([[1.0, 0.0]])
    beside(torch.tensor([0.75]))
    logs = grpo_logs.sampling_logs(torch.tensor([[-1.0, -9.0]]), torch.tensor([[-1.5, 0.0]]), mask)
    assert logs["sampling/sampling_logp_difference/max"].item() == 0.75
    assert logs["sampling/sampling_logp_difference/mean"].item() == 0.5
