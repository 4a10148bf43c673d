"""The alarm: when reward and validation score diverge, once, and not for noise."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from affectgpt_r1.callbacks.hacking_alarm import RewardHackingAlarm, slope_and_t
from affectgpt_r1.types import CompletionRecord

RISING = [0.70, 0.74, 0.77, 0.82, 0.86, 0.89]
FALLING = [0.80, 0.79, 0.785, 0.77, 0.765, 0.75]


def record(reward: float) -> CompletionRecord:
    return CompletionRecord("clip", "p", "sad", "x", {}, reward, 0.0)


def run(alarm, rewards, scores, *, first_step=25, sanity_checking=False):
    """One training step, then a validation, for each reward."""
    for index, (reward, score) in enumerate(zip(rewards, scores, strict=True)):
        trainer = SimpleNamespace(
            sanity_checking=sanity_checking,
            callback_metrics={"val/f1": torch.tensor(score)},
            global_step=first_step + 25 * index,
            is_global_zero=True,
            loggers=[],
        )
        outputs = {"records": [record(reward - 0.1), record(reward + 0.1), record(math.nan)]}
        alarm.on_train_batch_end(trainer, None, outputs, None, 0)
        alarm.on_validation_end(trainer, None)


def warnings_of(caplog):
    return [message for message in caplog.messages if "Reward hacking" in message]


@pytest.mark.parametrize(
    ("rewards", "scores", "expected"),
    [
        (RISING, FALLING, 1),
        (RISING, FALLING[::-1], 0),  # both rise
        (RISING[::-1], FALLING, 0),  # both fall
        (RISING, [0.8] * 6, 0),
        ([0.7] * 6, FALLING, 0),
        (RISING[:5], FALLING[:5], 0),  # too few validations
        (RISING, [0.8 - 0.0015 * index for index in range(6)], 0),  # steady, but less than a hundredth
        (RISING, [0.80, 0.72, 0.82, 0.70, 0.81, 0.74], 0),  # falls less than it scatters
        ([0.7, 0.9, 0.6, 1.0, 0.5, 0.9], FALLING, 0),  # rises less than it scatters
        (RISING * 1 + [0.9, 0.95], [0.5, 0.6, *FALLING], 1),  # only the last six count
    ],
)
def test_when_it_goes_off(caplog, rewards, scores, expected):
    with caplog.at_level(logging.WARNING):
        run(RewardHackingAlarm(), rewards, scores)
    assert len(warnings_of(caplog)) == expected


def test_it_says_when_and_how_much_and_only_once(caplog):
    with caplog.at_level(logging.WARNING):
        run(RewardHackingAlarm(), [*RISING, 0.95, 1.0], [*FALLING, 0.73, 0.72])
    (message,) = warnings_of(caplog)
    assert "step 150" in message
    assert "val/f1 fell by 0.049" in message  # 5 steps of 0.17 / 17.5
    assert "rose by 0.194" in message  # 5 steps of 0.68 / 17.5


def test_noise_alarms_in_few_windows(caplog):
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        caplog.clear()
        rewards = np.linspace(0.7, 0.9, 6) + generator.normal(0, 0.01, 6)
        with caplog.at_level(logging.WARNING):
            run(RewardHackingAlarm(), rewards.tolist(), generator.normal(0.78, 0.02, 6).tolist())
        alarms += bool(warnings_of(caplog))
    assert 8 <= alarms <= 34  # 5 % of 400 is 20, give or take three standard errors


def test_a_resumed_run_goes_on_where_it_stopped(caplog):
    first, second = RewardHackingAlarm(), RewardHackingAlarm()
    run(first, RISING[:4], FALLING[:4])
    second.load_state_dict(first.state_dict())
    with caplog.at_level(logging.WARNING):
        run(second, RISING[4:], FALLING[4:], first_step=125)
        third = RewardHackingAlarm()
        third.load_state_dict(second.state_dict())
        run(third, [0.95], [0.73], first_step=175)
    assert len(warnings_of(caplog)) == 1


def test_nothing_without_rewards_scores_or_before_training(caplog):
    with caplog.at_level(logging.WARNING):
        run(RewardHackingAlarm(), RISING, FALLING, sanity_checking=True)
        run(RewardHackingAlarm("val/other"), RISING, FALLING)
        alarm = RewardHackingAlarm()
        for score in FALLING:
            trainer = SimpleNamespace(sanity_checking=False, callback_metrics={"val/f1": torch.tensor(score)})
            alarm.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 0)
            alarm.on_validation_end(trainer, None)
    assert not warnings_of(caplog)


def test_in_a_real_fit(tiny_module, fit, caplog):
    alarm = RewardHackingAlarm(window=3, min_t=1.0)
    with caplog.at_level(logging.WARNING):
        trainer = fit(tiny_module((0.9, 0.7, 0.5)), [alarm])
    assert alarm.state_dict()["scores"] == pytest.approx([0.9, 0.7, 0.5])
    assert alarm.state_dict()["rewards"] == [0.5, 0.5, 0.5]
    assert trainer.global_step == 12
    assert not warnings_of(caplog)


def test_micro_batches_of_unequal_size_weigh_by_their_completions():
    """A mean of means would be 0.5."""
    alarm = RewardHackingAlarm()
    trainer = SimpleNamespace(sanity_checking=False, callback_metrics={"val/f1": torch.tensor(0.5)}, global_step=1)
    for rewards in ([1.0], [0.0] * 9, [math.nan]):
        alarm.on_train_batch_end(trainer, None, {"records": [record(one) for one in rewards]}, None, 0)
    resumed = RewardHackingAlarm()
    resumed.load_state_dict(alarm.state_dict())
    for one in (alarm, resumed):
        one.on_validation_end(trainer, None)
        assert one.state_dict()["rewards"] == [pytest.approx(0.1)]


def test_means_of_an_older_checkpoint_are_taken_up():
    alarm = RewardHackingAlarm()
    alarm.load_state_dict({"pending": [0.2, 0.4, 0.9], "rewards": [], "scores": [], "alarm_step": 0})
    trainer = SimpleNamespace(sanity_checking=False, callback_metrics={"val/f1": torch.tensor(0.5)}, global_step=1)
    alarm.on_validation_end(trainer, None)
    assert alarm.state_dict()["rewards"] == [pytest.approx(0.5)]


@pytest.mark.parametrize(
    ("values", "slope", "t"),
    [
        ([1.0, 1.0, 1.0], 0.0, 0.0),
        ([3.0, 2.0, 1.0], -1.0, -math.inf),
        ([0.0, 1.0, 0.0, 1.0], 0.2, 0.2 / math.sqrt(0.08)),
    ],
)
def test_slopes_by_hand(values, slope, t):
    assert slope_and_t(values) == (pytest.approx(slope, abs=1e-12), pytest.approx(t))


def test_a_validation_without_a_score_is_left_out(caplog):
    """A NaN inside the window would hide the fall for as many validations as the window is long."""
    scores = [*FALLING[:2], math.nan, *FALLING[2:]]
    with caplog.at_level(logging.WARNING):
        run(RewardHackingAlarm(), [*RISING[:2], 0.75, *RISING[2:]], scores)
    assert len(warnings_of(caplog)) == 1


def test_scores_of_another_metric_are_not_continued():
    """A line through F1 and then through a loss would fall by the change of metric alone."""
    first = RewardHackingAlarm()
    run(first, RISING[:5], FALLING[:5])
    state = first.state_dict()
    same, other = RewardHackingAlarm(), RewardHackingAlarm(monitor="val/recall")
    same.load_state_dict(state)
    other.load_state_dict(state)
    assert (len(same.state_dict()["scores"]), other.state_dict()["scores"]) == (5, [])
