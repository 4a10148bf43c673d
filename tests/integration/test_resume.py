"""A resumed run is bit-equal to one that never stopped: mid-epoch, and past the first epoch."""

from __future__ import annotations

import pytest
import torch
from mlflow.tracking import MlflowClient

from affectgpt_r1.tracking.database import ensure_database


def _weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("stop_at", [2, 3, 4, 5])
def test_sft_resumes_bit_equal(run_stage, tmp_path, stop_at):
    """Epochs of three batches: 2 is mid-epoch, 3 an epoch's end, 4 and 5 lie in the second epoch."""
    whole = _weights(run_stage("sft", tmp_path / "whole", 8))
    run_stage("sft", tmp_path / "cut", stop_at)
    torch.manual_seed(99)  # whatever the global generator holds must not matter
    resumed = _weights(run_stage("sft", tmp_path / "cut", 8, "ckpt_path=last"))
    _assert_equal(whole, resumed)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_grpo_resumes_bit_equal(run_stage, tmp_path, stop_at):
    """Epochs of two batches, KL to the reference and LoRA dropout on: every source of randomness is in play."""
    start = run_stage("sft", tmp_path / "sft", 2)
    options = (
        f"init_from={start}/checkpoints/last.ckpt",
        "stage.beta=0.04",
        "stage.num_generations=3",
        "data.modality_dropout=0.3",
    )
    whole = _weights(run_stage("grpo", tmp_path / "whole", 5, *options))
    run_stage("grpo", tmp_path / "cut", stop_at, *options)
    torch.manual_seed(99)
    resumed = _weights(run_stage("grpo", tmp_path / "cut", 5, *options, "ckpt_path=last"))
    _assert_equal(whole, resumed)
    for name, tensor in whole["reference"].items():
        assert torch.equal(tensor, resumed["reference"][name]), name


def test_lora_dropout_resumes_bit_equal(run_stage, tmp_path):
    lora = "model.lora={r: 4, alpha: 8, dropout: 0.2, target_modules: [q_proj, v_proj]}"
    whole = _weights(run_stage("sft", tmp_path / "whole", 5, lora))
    run_stage("sft", tmp_path / "cut", 2, lora)
    torch.manual_seed(99)
    resumed = _weights(run_stage("sft", tmp_path / "cut", 5, lora, "ckpt_path=last"))
    _assert_equal(whole, resumed)
    assert all("lora_" in name or "fusion" in name for name in whole["state_dict"])


def _assert_equal(whole, resumed):
    assert whole["global_step"] == resumed["global_step"]
    assert whole["position"] == resumed["position"]
    assert set(whole["state_dict"]) == set(resumed["state_dict"])
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][name]), name
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, resumed))
    for key, moments in first.items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, second[key][name]), (key, name)


def test_a_resumed_run_goes_on_with_its_mlflow_run(run_stage, workspace, tmp_path):
    options = ("logger=mlflow", "experiment_name=resumed")
    run_stage("sft", tmp_path / "run", 2, *options)
    run_stage("sft", tmp_path / "run", 4, *options, "ckpt_path=last")
    client = MlflowClient(ensure_database(workspace / "outputs"))
    (run,) = client.search_runs([client.get_experiment_by_name("resumed").experiment_id])
    assert run.info.status == "FINISHED"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted({metric.step for metric in losses}) == [0, 1, 2, 3]
