"""Exact resume is part of every run; what it stores and restores is tested by whole runs (tests/integration)."""

from __future__ import annotations

from types import SimpleNamespace

from affectgpt_r1.callbacks.exact_resume import ExactResume
from affectgpt_r1.callbacks.step_timer import StepTimer
from affectgpt_r1.config.build_trainer import add_exact_resume


def test_it_precedes_the_callbacks_of_the_configuration():
    for callbacks in ([], [StepTimer()]):
        trainer = SimpleNamespace(callbacks=list(callbacks))
        add_exact_resume(trainer, {"seed": 1}, content={}, config_changes=())
        assert isinstance(trainer.callbacks[0], ExactResume)
        assert trainer.callbacks[1:] == callbacks
        assert trainer.callbacks[0].config == {"seed": 1}
