"""Whether a policy on the simulated accelerator computes what it computes on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training.optim import build_optimizer
from affectgpt_r1.training.sanity_checks import gradient_norm
from affectgpt_r1.types import ClipBatch, Rollout
from helpers.simulated_device import NAME, host_alone

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


def on_device(policy: MultimodalPolicy, device: torch.device) -> MultimodalPolicy:
    return copy.deepcopy(policy).to(device)


def generator_on(device: torch.device) -> torch.Generator:
    """A generator of the device; of the CPU for a GPU, whose own draws other numbers."""
    return torch.Generator("cpu" if device.type == "cuda" else device)


def needs_simulation(device: torch.device) -> None:
    if device.type != NAME:
        pytest.skip(f"looks into the simulation, which {device} is not")


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    assert ours.device.type != "cpu"
    assert theirs.device.type == "cpu"
    torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=tolerance)


def assert_same_gradients(ours: MultimodalPolicy, theirs: MultimodalPolicy, tolerance: float = 2e-5) -> None:
    expected = {name: param.grad for name, param in theirs.trainable_parameters().items()}
    assert any(gradient is not None for gradient in expected.values())
    for name, param in ours.trainable_parameters().items():
        gradient = expected[name]
        assert (param.grad is None) == (gradient is None), name
        if param.grad is not None and gradient is not None:
            assert_same(param.grad, gradient, tolerance)


def assert_same_rollout(ours: Rollout, theirs: Rollout) -> None:
    assert ours.completions.ids.cpu().equal(theirs.completions.ids)
    assert ours.texts == theirs.texts
    assert_same(ours.per_token_logps, theirs.per_token_logps, 1e-4)
    assert ours.truncated.cpu().equal(theirs.truncated)


def step(policy: MultimodalPolicy, stage: Any, batch: ClipBatch, visits: int = 1) -> list[Mapping[str, Any]]:
    """Make training steps as the Trainer does; returns what each logged."""
    with host_alone(policy.device):
        return _step(policy, stage, batch, visits)


def _step(policy: MultimodalPolicy, stage: Any, batch: ClipBatch, visits: int) -> list[Mapping[str, Any]]:
    device = policy.device
    stage.prepare(policy)
    policy.train()
    optimizer = build_optimizer(
        lambda groups: torch.optim.AdamW(groups, lr=1e-3), policy.named_parameters(), weight_decay=0.1
    )
    logs = []
    for visit in range(visits):
        clips = batch_to_device(batch if visit == 0 else ClipBatch((), (), (), (), ()), device)
        output = stage.training_step(policy, clips, seed=5)
        assert output.loss.device == device
        optimizer.zero_grad()
        output.loss.backward()
        norm = gradient_norm(policy.parameters())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        if visit + 1 < visits:
            optimizer.step()
        logs.append({"loss": output.loss, "norm": norm, **output.logs})
    return logs


def assert_same_logs(ours: list[Mapping[str, Any]], theirs: list[Mapping[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for logs, expected in zip(ours, theirs, strict=True):
        assert logs.keys() == expected.keys()
        for name in logs.keys() - {"tokens_per_second"}:
            assert float(logs[name]) == pytest.approx(float(expected[name]), rel=1e-3, abs=1e-4, nan_ok=True), name
