"""Parameter groups and the learning-rate schedule by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.training.optim import (
    build_optimizer,
    cosine_schedule,
    linear_schedule,
    parameter_groups,
    replay_settings,
)


def test_matrices_decay_biases_and_norms_do_not():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(4, 2), nn.Linear(2, 2))
    model[3].requires_grad_(False)
    decayed, plain = parameter_groups(model.named_parameters(), 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert [tuple(one.shape) for one in decayed["params"]] == [(2, 3), (4, 2)]
    assert [tuple(one.shape) for one in plain["params"]] == [(2,), (2,), (2,)]
    (decayed,) = parameter_groups(nn.Linear(3, 2, bias=False).named_parameters(), 0.05)
    assert decayed["weight_decay"] == 0.05


@pytest.mark.parametrize(
    ("options", "weight_decay", "message"),
    [
        ({"lr": -1}, 0.0, r"optim\.optimizer: Invalid learning rate: -1; .* optim\.optimizer\.lr="),
        ({"betas": (0.9, 1.5)}, 0.0, r"optim\.optimizer: Invalid beta"),
    ],
)
def test_settings_that_the_optimizer_refuses_are_named(options, weight_decay, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(partial(torch.optim.AdamW, **options), nn.Linear(2, 3).named_parameters(), weight_decay)


def rates(steps: int, shape=linear_schedule, **settings) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = shape(optimizer, **settings)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_rise_and_fall():
    # Warm-up 1/4 2/4 3/4, then from 1 down by 1/4 per step, and 0 for ever after.
    assert rates(9, warmup_steps=3, total_steps=7) == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0])


def test_min_lr_ratio():
    assert rates(7, warmup_steps=0, total_steps=4, min_lr_ratio=0.2) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert rates(6, warmup_steps=1, total_steps=4, min_lr_ratio=1.0) == pytest.approx([0.5, 1, 1, 1, 1, 1])


def test_half_a_cosine():
    # From 1 at step 1 over 1/2 at its middle to 0; a quarter of the way (1 + cos 45 degrees) / 2.
    expected = [0.5, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0, 0]
    assert rates(7, cosine_schedule, warmup_steps=1, total_steps=5) == pytest.approx(expected)
    kept = [0.2 + 0.8 * ratio for ratio in expected[1:]]
    assert rates(6, cosine_schedule, warmup_steps=0, total_steps=4, min_lr_ratio=0.2) == pytest.approx(kept)


def test_a_run_shorter_than_its_warm_up_stays_finite():
    assert rates(5, warmup_steps=20, total_steps=2) == pytest.approx([1 / 21, 2 / 21, 3 / 21, 4 / 21, 5 / 21])


@pytest.mark.parametrize("shape", [linear_schedule, cosine_schedule])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": 0, "total_steps": -1}, r"total_steps=-1: a learning rate that falls needs the run's length"),
    ],
)
def test_a_schedule_that_would_end_at_once_is_refused(shape, settings, message):
    with pytest.raises(ConfigError, match=message):
        rates(1, shape, **settings)


def test_a_constant_rate_needs_no_length():
    assert rates(4, warmup_steps=1, total_steps=-1, min_lr_ratio=1.0) == pytest.approx([0.5, 1, 1, 1])


def trained(steps: int, lr: float, shape=linear_schedule, **settings):
    """Optimizer and schedule after ``steps``, and their checkpoint; the weights have two groups."""
    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(partial(torch.optim.AdamW, lr=lr), layer.named_parameters(), 0.05)
    schedule = shape(optimizer, **settings)
    for _ in range(steps):
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    return optimizer, schedule, {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}


@pytest.mark.parametrize("shape", [linear_schedule, cosine_schedule])
def test_replayed_settings_are_those_of_a_run_that_had_them_from_the_start(shape):
    _, _, checkpoint = trained(5, 1e-3, shape, warmup_steps=2, total_steps=10)
    moments = checkpoint["optimizer_states"][0]["state"]
    settings = {"warmup_steps": 1, "total_steps": 20, "min_lr_ratio": 0.5}
    expected, schedule, _ = trained(5, 1e-5, shape, **settings)
    today = build_optimizer(partial(torch.optim.AdamW, lr=1e-5), nn.Linear(2, 2).named_parameters(), 0.01)
    replay_settings(today, partial(shape, **settings), checkpoint)
    (states,), (schedules,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    rate = expected.param_groups[0]["lr"]
    assert 0 < rate < 1e-5
    assert [group["lr"] for group in states["param_groups"]] == [rate, rate]
    assert [group["weight_decay"] for group in states["param_groups"]] == [0.01, 0.0]
    assert [group["initial_lr"] for group in states["param_groups"]] == schedules["base_lrs"] == [1e-5, 1e-5]
    assert (schedules["last_epoch"], schedules["_last_lr"]) == (5, schedule.get_last_lr())
    assert states["state"] is moments


def test_the_schedules_of_torch_are_replayed_too():
    """They restore their own length from a checkpoint, so that a new one was ignored."""
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    _, _, checkpoint = trained(3, 1e-3, cosine, T_max=4)
    expected, _, _ = trained(3, 1e-3, cosine, T_max=9)
    today = build_optimizer(partial(torch.optim.AdamW, lr=1e-3), nn.Linear(2, 2).named_parameters(), 0.05)
    replay_settings(today, partial(cosine, T_max=9), checkpoint)
    assert checkpoint["lr_schedulers"][0]["T_max"] == 9
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == expected.param_groups[0]["lr"]


def test_the_published_warm_up():
    """From 1e-6 to 1e-5 over 5,000 steps, then constant; here over 5 steps, as fractions of 1e-5."""
    published = {"warmup_steps": 5, "total_steps": 300, "min_lr_ratio": 1.0, "warmup_start_ratio": 0.1}
    expected = [0.1, 0.28, 0.46, 0.64, 0.82, 1, 1, 1]
    assert rates(8, **published) == pytest.approx(expected)
    assert rates(8, cosine_schedule, **published) == pytest.approx(expected)
