"""Trainers that this machine cannot offer are refused in one line, before any work is done."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.errors import ConfigError


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is at hand")
@pytest.mark.parametrize("trainer", ["gpu", "ddp", "fsdp"])
def test_a_trainer_without_its_gpu_is_a_clear_error(run_stage, tmp_path, trainer):
    with pytest.raises(ConfigError, match=r"No supported gpu backend found.*trainer\.accelerator=cpu"):
        run_stage("sft", tmp_path, 1, f"trainer={trainer}")


def test_several_processes_without_a_strategy_are_a_clear_error(run_stage, tmp_path):
    """Lightning's own choice breaks down where a batch leaves out weights, or processes validate unequally."""
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: several processes need one of trainer=ddp"):
        run_stage("sft", tmp_path, 1, "trainer.devices=2")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_do_not_train_in_half_precision(run_stage, tmp_path, precision):
    with pytest.raises(ConfigError, match=rf"trainer\.precision={precision}: .* use bf16-mixed or 32-true"):
        run_stage("sft", tmp_path, 1, f"trainer.precision={precision}")
