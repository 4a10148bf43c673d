"""A run that SIGKILL ends in mid-buffer and within an accumulated step continues bit-equal, in a later epoch, too."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from affectgpt_r1.rewards.format import FormatReward
from helpers.forked import run_forked
from helpers.recorded import letters
from helpers.runs import assert_equal_checkpoints, checkpoint_of, signal_at_batch

# Epochs of 8 batches, of which one samples and seven visit its buffer; an optimizer step every 2, validation every 5.
BUFFERED = (
    "data.batch_size=1",
    "trainer.accumulate_grad_batches=2",
    "trainer.val_check_interval=5",
    "callbacks.last_checkpoint.every_n_steps=1",
    "prompt.max_completion_length=8",
)
LORA = ("model.lora={r: 4, alpha: 8, dropout: 0.2, target_modules: [q_proj, v_proj]}",)
GRPO = (
    *BUFFERED,
    "stage.num_iterations=2",
    "stage.steps_per_generation=4",
    "stage.num_generations=2",
    "stage.beta=0.04",
    "stage.loss_type=dapo",
    "stage.entropy_coef=0.01",
    *LORA,
)
STEPS_MORE = 5  # an epoch and more


@pytest.fixture(scope="module", autouse=True)
def _reward_letters() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FormatReward, "__call__", letters)
        yield


@pytest.fixture
def run_until_killed(run_stage):
    """Run a stage in another process that kills itself when batch ``last + 1`` begins; returns the last checkpoint."""

    def run(experiment: str, folder: Path, number: int, last: int, *overrides: str) -> dict:
        def until_killed():
            batches = count(1)
            signal_at_batch(lambda module: next(batches) > last)
            run_stage(experiment, folder, number, *overrides)

        finished = run_forked(until_killed)
        assert finished.returncode == -signal.SIGKILL, finished.stderr
        return checkpoint_of(folder)

    return run


@pytest.fixture(scope="module")
def lora_start(run_stage, tmp_path_factory) -> str:
    return f"init_from={run_stage('sft', tmp_path_factory.mktemp('sft'), 2, *LORA)}/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def uncut_grpo_run(run_stage, lora_start, tmp_path_factory) -> dict:
    return checkpoint_of(run_stage("grpo", tmp_path_factory.mktemp("uncut"), 7 + STEPS_MORE, lora_start, *GRPO))


# After 13 batches the last checkpoint is that of step 6, in mid-buffer; after 15 it is that of a validation, which came
# between the two batches of a step.
@pytest.mark.parametrize(
    ("last", "position", "visits"), [pytest.param(13, [1, 4], 4, marks=pytest.mark.slow), (15, [1, 7], 7)]
)
def test_grpo_killed_in_mid_buffer(
    uncut_grpo_run, lora_start, run_until_killed, run_stage, tmp_path, last, position, visits
):
    steps = 7 + STEPS_MORE
    left = run_until_killed("grpo", tmp_path, steps, last, lora_start, *GRPO)
    assert left["position"] == position
    assert left["rollout_buffer"]["visits"] == visits
    assert bool(left["gradients"]) == (position[1] % 2 == 1)
    assert left["reference"]
    assert left["rollout_buffer"]["buffer"]["advantages"].abs().max() > 0.1
    torch.manual_seed(99)  # whatever the global generator holds must not matter
    run_stage("grpo", tmp_path, steps, lora_start, *GRPO, "ckpt_path=last")
    resumed = checkpoint_of(tmp_path)
    assert_equal_checkpoints(uncut_grpo_run, resumed)
    assert resumed["global_step"] >= left["global_step"] + STEPS_MORE


def test_sft_killed_within_an_accumulated_step(run_until_killed, run_stage, tmp_path, tmp_path_factory):
    steps = 5 + STEPS_MORE
    options = (*BUFFERED, *LORA, "data.modality_dropout=0.3", "trainer.val_check_interval=1000")
    uncut = checkpoint_of(run_stage("sft", tmp_path_factory.mktemp("uncut"), steps, *options))
    left = run_until_killed("sft", tmp_path, steps, 10, *options)
    assert left["position"] == [1, 4]
    run_stage("sft", tmp_path, steps, *options, "ckpt_path=last")
    assert_equal_checkpoints(uncut, checkpoint_of(tmp_path))
