"""A resumed run is bit-equal to one that never stopped: mid-epoch, and past the first epoch."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from helpers.runs import assert_equal_checkpoints, checkpoint_of, tracked_runs

GRPO = ("stage.beta=0.04", "stage.num_generations=3", "data.modality_dropout=0.3")


@pytest.fixture(scope="module")
def uncut(run_stage, start, tmp_path_factory):
    """``uncut(experiment)``: the last checkpoint of a run that never stopped."""

    @cache
    def run(experiment):
        number, options = {"sft": (8, ()), "grpo": (5, (start, *GRPO))}[experiment]
        return checkpoint_of(run_stage(experiment, tmp_path_factory.mktemp("uncut") / experiment, number, *options))

    return run


# test_lora_dropout_resumes_bit_equal stops at 2, too.
@pytest.mark.parametrize("stop_at", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 3, 4))])
def test_sft_resumes_bit_equal(run_stage, uncut, tmp_path, stop_at):
    """Epochs of three batches: 2 is mid-epoch, 3 an epoch's end, 4 and 5 are in the second epoch."""
    run_stage("sft", tmp_path, stop_at)
    torch.manual_seed(99)  # whatever the global generator holds must not matter
    run_stage("sft", tmp_path, 8, "ckpt_path=last")
    assert_equal_checkpoints(uncut("sft"), checkpoint_of(tmp_path))


@pytest.mark.parametrize("stop_at", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 2))])
def test_grpo_resumes_bit_equal(run_stage, uncut, start, tmp_path, stop_at):
    """Epochs of two batches, KL to the reference and modality dropout on: every source of randomness is in play."""
    run_stage("grpo", tmp_path, stop_at, start, *GRPO)
    torch.manual_seed(99)
    run_stage("grpo", tmp_path, 5, start, *GRPO, "ckpt_path=last")
    expected, resumed = uncut("grpo"), checkpoint_of(tmp_path)
    assert_equal_checkpoints(expected, resumed)
    for name, tensor in expected["reference"].items():
        assert torch.equal(tensor, resumed["reference"][name]), name


def test_lora_dropout_resumes_bit_equal(run_stage, tmp_path):
    lora = "model.lora={r: 4, alpha: 8, dropout: 0.2, target_modules: [q_proj, v_proj]}"
    expected = checkpoint_of(run_stage("sft", tmp_path / "expected", 5, lora))
    run_stage("sft", tmp_path / "cut", 2, lora)
    torch.manual_seed(99)
    resumed = checkpoint_of(run_stage("sft", tmp_path / "cut", 5, lora, "ckpt_path=last"))
    assert_equal_checkpoints(expected, resumed)
    assert all("lora_" in name or "fusion" in name for name in expected["state_dict"])


def test_a_resumed_run_continues_its_mlflow_run(run_stage, workspace, tmp_path):
    options = ("logger=mlflow", "experiment_name=resumed")
    run_stage("sft", tmp_path / "run", 2, *options)
    run_stage("sft", tmp_path / "run", 4, *options, "ckpt_path=last")
    client, (run,) = tracked_runs(workspace / "outputs", "resumed")
    assert run.info.status == "FINISHED"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted({metric.step for metric in losses}) == [0, 1, 2, 3]


def test_chord_resumes_bit_equal_over_both_streams(run_stage, start, tmp_path):
    """A file of its own for the supervised clips, and a stop in the middle of a rollout buffer of two passes."""
    options = (
        *("stage=chord", "stage.num_generations=3", "stage.num_iterations=2", "stage.token_weighting=phi", start),
        *("stage.mu={peak: 0.5, valley: 0.1, warmup_steps: 0, decay_steps: 2}", "stage.supervised_batch_size=2"),
        *("data.supervised_labels=track2_train_mercaptionplus.csv", "data.modality_dropout=0.3", "data.seen_labels=[]"),
    )
    expected = checkpoint_of(run_stage("grpo", tmp_path / "expected", 3, *options))
    run_stage("grpo", tmp_path / "cut", 1, *options)
    torch.manual_seed(99)
    resumed = checkpoint_of(run_stage("grpo", tmp_path / "cut", 3, *options, "ckpt_path=last"))
    assert_equal_checkpoints(expected, resumed)
    assert resumed["content"].keys() >= {"data.supervised_labels"}
