"""What a training step gives to the loggers, and at which steps."""

from types import SimpleNamespace

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.optim import OptimizerFactory
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import LogValue, Sampling


@pytest.fixture
def module(tiny_policy):
    optimizers = OptimizerFactory(torch.optim.SGD, torch.optim.lr_scheduler.ConstantLR, weight_decay=0.0)
    sampling = Sampling(temperature=0.0)
    return AffectModule(tiny_policy, SFTStage(), load_lexicon("bundled"), optimizers, answer_sampling=sampling, seed=0)


def test_loggers_get_every_nth_optimizer_step_whole_and_callbacks_every_step(module):
    logged: list[tuple[int, dict[str, float]]] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((step, metrics)), save=lambda: None)
    trainer = SimpleNamespace(callback_metrics={}, loggers=[logger], log_every_n_steps=2, should_stop=False,
                              current_epoch=3, global_step=0)  # fmt: skip
    module.trainer = trainer
    for step in range(1, 6):
        module.on_train_batch_end(None, None, 0)  # a micro-batch after which the optimizer does not step
        module.log_train({"loss": torch.tensor(float(step))})
        assert trainer.callback_metrics["train/loss"] == step
        module.accumulated.has_stepped, trainer.global_step = True, step
        module.log_train({"system/time/step": LogValue("mean", 0.5)})
        trainer.should_stop = step == 5
        module.on_train_batch_end(None, None, 0)
    # From 0, as Lightning counts; the last step is logged where the run is stopped at it.
    assert logged == [
        (step, {"train/loss": step + 1.0, "system/time/step": 0.5, "epoch": 3}) for step in (1, 3, 4)
    ]  # fmt: skip
    assert not module.accumulated.has_stepped
