"""ZeRO by DeepSpeed on two processes of this machine: the weights and moments of DDP, and files that each resumes."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator

from affectgpt_r1.callbacks.checkpoints import LastCheckpoint
from affectgpt_r1.rewards.format import FormatReward

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install deepspeed")

PLAIN = ("logger=none", "data.batch_size=1", "data.modality_dropout=0", "prompt.max_completion_length=8")
ACCUMULATED = ("trainer.accumulate_grad_batches=3", "trainer.val_check_interval=5", "data.eval_batch_size=1")
BUFFERED = ("stage.num_generations=2", "stage.beta=0.04", "stage.steps_per_generation=2", "stage.num_iterations=2")


def letters(reward, *, completions, targets):
    """Share of characters that are letters: differs between random completions, none of which is well formed."""
    return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


@pytest.fixture(autouse=True)
def deepspeed_on_cpu(monkeypatch):
    """Lightning asks for a GPU, and for its number; DeepSpeed does not."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    deepspeed = pytest.importorskip("deepspeed")
    initialize = deepspeed.initialize
    monkeypatch.setattr(deepspeed, "initialize", lambda args, **options: initialize(**options))
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed.CUDAAccelerator", CPUAccelerator)
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._validate_device_index_selection", lambda _: None)
    monkeypatch.setattr(FormatReward, "__call__", letters)


@pytest.fixture(scope="module")
def start(run_stage, tmp_path_factory) -> str:
    return f"init_from={run_stage('sft', tmp_path_factory.mktemp('sft'), 2)}/checkpoints/last.ckpt"


def checkpoint(folder) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(found: dict, expected: dict, bound: float) -> None:
    """Weights and moments differ by no more than ``bound``."""
    assert (found["position"], found["global_step"]) == (expected["position"], expected["global_step"])
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for name, tensor in expected["state_dict"].items():
        assert (found["state_dict"][name] - tensor).abs().max().item() <= bound, name
    (one,), (other,) = found["optimizer_states"], expected["optimizer_states"]
    assert [group["params"] for group in one["param_groups"]] == [group["params"] for group in other["param_groups"]]
    assert one["state"].keys() == other["state"].keys()
    for number, state in other["state"].items():
        assert {"step", "exp_avg", "exp_avg_sq"} == one["state"][number].keys() == state.keys()
        for name, tensor in state.items():
            assert (one["state"][number][name] - tensor).abs().max().item() <= bound, (number, name)


@pytest.mark.parametrize(
    ("experiment", "options"),
    [
        ("sft", ACCUMULATED),
        ("grpo", ("stage.num_generations=4", "data.batch_size=2")),
        ("grpo", (*ACCUMULATED, *BUFFERED)),
    ],
)
def test_training_is_that_of_ddp(run_on_two, start, tmp_path, experiment, options):
    options = (*PLAIN, *options, *([start] if experiment == "grpo" else []))
    expected = checkpoint(run_on_two(experiment, tmp_path / "ddp", 3, *options))
    found = checkpoint(run_on_two(experiment, tmp_path / "zero", 3, *options, "trainer=deepspeed"))
    assert_same(found, expected, 2e-6)


def test_autocast_leaves_weights_in_float32(run_on_two, tmp_path):
    options = (*PLAIN, "trainer.precision=bf16-mixed")
    expected = checkpoint(run_on_two("sft", tmp_path / "ddp", 2, *options))
    found = checkpoint(run_on_two("sft", tmp_path / "zero", 2, *options, "trainer=deepspeed"))
    assert {tensor.dtype for tensor in found["state_dict"].values()} == {torch.float32}
    assert_same(found, expected, 1e-3)


def test_a_run_resumes_exactly_and_under_ddp(run_on_two, start, tmp_path):
    """In mid-buffer, with dropout."""
    options = (*PLAIN, *ACCUMULATED, *BUFFERED, start)
    whole = checkpoint(run_on_two("grpo", tmp_path / "whole", 4, *options, "trainer=deepspeed"))
    run_on_two("grpo", tmp_path / "cut", 1, *options, "trainer=ddp")
    run_on_two("grpo", tmp_path / "cut", 2, *options, "trainer=deepspeed", "ckpt_path=last")
    run_on_two("grpo", tmp_path / "cut", 3, *options, "trainer=deepspeed", "ckpt_path=last")
    run_on_two("grpo", tmp_path / "cut", 4, *options, "trainer=ddp", "ckpt_path=last", "evaluate_after=true")
    assert_same(checkpoint(tmp_path / "cut"), whole, 2e-6)
    assert len((tmp_path / "cut" / "test" / "answers.jsonl").read_text().splitlines()) == 4


def test_accumulated_gradients_are_resumed(run_on_two, tmp_path, monkeypatch):
    """The first validation writes the file after two batches of three."""
    before = LastCheckpoint.on_validation_end

    def keep(callback, trainer, module):
        before(callback, trainer, module)
        if trainer.is_global_zero and trainer.global_step == 0:
            shutil.copy(tmp_path / "checkpoints" / "last.ckpt", middle)

    middle = tmp_path / "middle.ckpt"
    monkeypatch.setattr(LastCheckpoint, "on_validation_end", keep)
    options = (*PLAIN, "trainer=deepspeed", "trainer.accumulate_grad_batches=3", "trainer.val_check_interval=2")
    whole = checkpoint(run_on_two("sft", tmp_path, 3, *options))
    assert torch.load(middle, weights_only=True)["gradients"]
    resumed = checkpoint(run_on_two("sft", tmp_path / "resumed", 3, *options, f"ckpt_path={middle}"))
    assert_same(resumed, whole, 0.0)
