"""Times and memory of a run that was cut, to the second, by a clock that the test moves."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from affectgpt_r1.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from affectgpt_r1.callbacks.run_totals import RunTotals


@pytest.fixture
def clock(monkeypatch):
    state = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: state.now)
    return state


def resume(totals, checkpoint):
    totals.on_load_checkpoint(None, None, checkpoint)
    totals.load_state_dict(checkpoint["callbacks"][totals.state_key])


def test_a_resumed_run_takes_what_its_parts_took(clock):
    first = RunTotals()
    with first.phase("data_seconds"):
        clock.now += 3
    with first.phase("fit_seconds"):
        clock.now += 20
        checkpoint = {"global_step": 7, "callbacks": {first.state_key: first.state_dict()}}
        clock.now += 5  # steps that a kill loses: the second part repeats them
    assert first.seconds() == {"data_seconds": 3.0, "fit_seconds": 25.0}
    second = RunTotals()
    with second.phase("data_seconds"):
        clock.now += 2
    with second.phase("fit_seconds"):
        clock.now += 4  # start-up, which a run that never stopped has not
        resume(second, checkpoint)
        clock.now += 1
        second.on_train_start(None, None)
        clock.now += 30
        again = {"global_step": 9, "callbacks": {second.state_key: second.state_dict()}}
    assert second.seconds() == {"data_seconds": 5.0, "fit_seconds": 50.0}
    third = RunTotals()
    with third.phase("fit_seconds"):
        resume(third, again)
        clock.now += 0.25
    assert third.seconds()["fit_seconds"] == 50.25
    assert third.resumed_at == [7, 9]


def test_the_peak_is_that_of_the_largest_part():
    totals = RunTotals()
    assert 0 < totals.peak_memory_mib() < 1e6
    state = {"seconds": {}, "peak_memory_mib": 1e9, "resumed_at": []}
    totals.load_state_dict(state)
    assert totals.peak_memory_mib() == 1e9


def test_a_checkpoint_without_totals_says_where_it_was_resumed():
    totals = RunTotals()
    totals.on_load_checkpoint(None, None, {"global_step": 4})
    assert totals.resumed_at == [4]


@pytest.mark.parametrize(("earlier", "steps"), [(2000.0, 4), (10.0, 12)])
def test_the_time_that_a_run_may_take_includes_its_earlier_parts(tmp_path, tiny_module, fit, earlier, steps):
    """As the control's, which trains for as long as GRPO did."""
    callbacks = [RunTotals(), BestCheckpoint(tmp_path), LastCheckpoint(tmp_path)]
    limit = {"max_time": {"seconds": 1000}}
    fit(tiny_module(), callbacks, max_epochs=1, **limit)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] = earlier
    torch.save(checkpoint, tmp_path / "last.ckpt")
    callbacks = [RunTotals(), BestCheckpoint(tmp_path), LastCheckpoint(tmp_path)]
    assert fit(tiny_module(), callbacks, ckpt_path="last", **limit).global_step == steps
    assert callbacks[0].resumed_at == [4]


def test_a_run_resumed_after_its_last_validation_knows_its_metrics(tmp_path, tiny_module, fit):
    """Killed before its record was written, it has nothing more to log."""

    def callbacks():
        return [RunTotals(), BestCheckpoint(tmp_path), LastCheckpoint(tmp_path)]

    full, again = callbacks(), callbacks()
    metrics = fit(tiny_module((0.5, 0.7)), full, max_epochs=2).callback_metrics
    assert metrics["val/f1"] == pytest.approx(0.7)
    trainer = fit(tiny_module(()), again, max_epochs=2, ckpt_path=str(tmp_path / "last.ckpt"))
    assert trainer.callback_metrics == metrics
    assert again[1].best_model_score == full[1].best_model_score


def test_a_run_may_be_judged_by_a_metric_that_is_logged_before_the_checkpoint_only(tmp_path, tiny_module, fit):
    """As one of training steps is, where a run is resumed within an accumulated step that a validation divides."""

    def run(losses, **options):
        module = tiny_module(())
        module.on_validation_epoch_end = lambda: losses and module.log("train/judged", losses.pop(0))
        callbacks = [RunTotals(), BestCheckpoint(tmp_path, "train/judged", "min"), LastCheckpoint(tmp_path)]
        return fit(module, callbacks, **options).callback_metrics["train/judged"]

    assert run([0.5, 0.25], max_epochs=2) == 0.25
    assert run([], max_epochs=3, ckpt_path=str(tmp_path / "last.ckpt")) == 0.25
