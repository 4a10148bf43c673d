"""Times of an optimizer step: summed over micro-batches, resumed in its middle, and without phases if these are off."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import count

import pytest
import torch

from affectgpt_r1.callbacks.step_timer import PhaseTimer, StepTimer
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.optim import OptimizerFactory
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling


@pytest.fixture
def module(tiny_policy, monkeypatch):
    """A module that keeps what is logged, and clocks that advance by one second per look."""
    ticks = count()
    monkeypatch.setattr(PhaseTimer, "now", lambda timer: float(next(ticks)))
    optimizers = OptimizerFactory(torch.optim.SGD, torch.optim.lr_scheduler.ConstantLR, weight_decay=0.0)
    sampling = Sampling(temperature=0.0)
    module = AffectModule(
        tiny_policy, SFTStage(), load_lexicon("bundled"), optimizers, answer_sampling=sampling, seed=0
    )
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(module, "log_train", lambda logs: logged.append({key: float(logs[key]) for key in logs}))
    module.logged = logged
    return module


def micro_batch(timer, module, *, steps):
    """The hooks of a micro-batch whose forward pass is timed."""
    timer.on_train_batch_start(None, module, None, 0)
    with module.stage.phase("forward"):
        pass
    timer.on_before_backward(None, module, None)
    timer.on_after_backward(None, module)
    if steps:
        timer.on_before_optimizer_step(None, module, None)
    module.accumulated.has_stepped = steps
    timer.on_train_batch_end(None, module, None, None, 0)


def test_times_are_summed_over_the_micro_batches_of_a_step(module):
    timer = StepTimer()
    timer.on_fit_start(None, module)
    timer.timer.add("prefill", 9.0)  # as validation does
    micro_batch(timer, module, steps=False)
    assert module.logged == []
    micro_batch(timer, module, steps=True)
    (logs,) = module.logged
    assert logs.pop("system/peak_memory_mib") > 20
    # Looks at the clock after the first, of each micro-batch: 5 and 6.
    assert logs == {
        "system/time/step": 11.0,
        "system/time/forward": 2.0,
        "system/time/backward": 2.0,
        "system/time/optimizer": 1.0,
    }


def test_a_step_that_is_cut_between_its_micro_batches_keeps_its_seconds(module):
    timer, resumed = StepTimer(), StepTimer()
    timer.on_fit_start(None, module)
    micro_batch(timer, module, steps=False)
    resumed.load_process_state(timer.process_state())
    resumed.on_fit_start(None, module)
    micro_batch(resumed, module, steps=True)
    assert module.logged[0]["system/time/step"] == 11.0
    older = StepTimer()
    older.load_process_state({"accumulated": {"seconds": {"step_time": 2.0}}})
    assert older.process_state() == {"seconds": {"step_time": 2.0}}


def test_a_phase_that_a_step_leaves_out_took_no_time(module):
    timer = StepTimer()
    timer.on_fit_start(None, module)
    micro_batch(timer, module, steps=True)
    module.stage.phase = nullcontext
    micro_batch(timer, module, steps=True)
    assert [logs["system/time/forward"] for logs in module.logged] == [1.0, 0.0]


def test_without_phases_the_steps_time_is_left(module):
    timer = StepTimer(phases=False)
    timer.on_fit_start(None, module)
    micro_batch(timer, module, steps=True)
    assert module.logged[0].keys() == {"system/time/step", "system/peak_memory_mib"}
