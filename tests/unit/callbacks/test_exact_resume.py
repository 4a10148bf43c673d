"""Callbacks of every run, whatever `callbacks=` says; what exact resume stores is tested by whole runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from omegaconf import OmegaConf

from affectgpt_r1.callbacks.exact_resume import ExactResume
from affectgpt_r1.callbacks.run_totals import RunTotals
from affectgpt_r1.callbacks.step_timer import StepTimer
from affectgpt_r1.callbacks.unreadable_clips import UnreadableClipsMonitor
from affectgpt_r1.config.build_trainer import add_exact_resume, build_trainer
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.optim import OptimizerFactory
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling


def test_it_precedes_the_callbacks_of_the_configuration():
    for callbacks in ([], [StepTimer()]):
        trainer = SimpleNamespace(callbacks=list(callbacks))
        add_exact_resume(trainer, {"seed": 1}, content={}, config_changes=())
        assert isinstance(trainer.callbacks[0], ExactResume)
        assert trainer.callbacks[1:] == callbacks
        assert trainer.callbacks[0].config == {"seed": 1}


def test_a_checkpoint_of_weights_alone_holds_the_configuration(tiny_policy):
    optimizers = OptimizerFactory(torch.optim.SGD, torch.optim.lr_scheduler.ConstantLR, weight_decay=0.0)
    sampling = Sampling(temperature=0.0)
    module = AffectModule(
        tiny_policy, SFTStage(), load_lexicon("bundled"), optimizers, answer_sampling=sampling, seed=0
    )
    ExactResume({"seed": 1}, content={}).setup(None, module, "fit")
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)  # the only hook that Lightning calls for ModelCheckpoint's save_weights_only
    assert checkpoint["config"] == {"seed": 1}
    assert checkpoint.keys() == {"state_dict", "reference", "config", "digests"}


def test_a_run_without_callbacks_still_counts_unreadable_clips_and_times_steps():
    config = {
        "callbacks": {},
        "match_wall_time": None,
        "trainer": {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "devices": 1},
        "paths": {"run": "run"},
        "data": {"max_unreadable_fraction": 0.25},
    }
    trainer = build_trainer(OmegaConf.create(config), [], RunTotals())
    kinds = [type(callback) for callback in trainer.callbacks]
    timer, monitor = (trainer.callbacks[kinds.index(kind)] for kind in (StepTimer, UnreadableClipsMonitor))
    assert not timer.timer.enabled  # phases wait for the GPU
    assert (monitor._folder, monitor._max_fraction) == (Path("run"), 0.25)
