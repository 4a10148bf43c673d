"""Runs on a simulated accelerator, through the Trainer: what they train, save and resume."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from lightning.pytorch.accelerators import AcceleratorRegistry, CPUAccelerator

from affectgpt_r1.policy.policy import MultimodalPolicy
from helpers.runs import checkpoint_of
from helpers.simulated_device import NAME, SimulatedTensor, host_alone

ON_DEVICE = (
    f"trainer.accelerator={NAME}",
    f"+trainer.strategy={{_target_: lightning.pytorch.strategies.SingleDeviceStrategy, device: '{NAME}:0'}}",
)
SHORT = ("trainer.val_check_interval=2", "prompt.max_completion_length=6")


class SimulatedAccelerator(CPUAccelerator):
    """Lightning's view of the device."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME


@pytest.fixture
def device(device) -> Iterator[torch.device]:
    AcceleratorRegistry.register(NAME, SimulatedAccelerator, "", override=True)
    yield device
    AcceleratorRegistry.remove(NAME)


def assert_equal(ours, theirs, tolerance):
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, tensor in ours["state_dict"].items():
        torch.testing.assert_close(tensor, theirs["state_dict"][name], rtol=0, atol=tolerance)
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (ours, theirs)]
    for key, state in moments[0].items():
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, moments[1][key][name], rtol=1e-2, atol=tolerance)


def test_sft_trains_what_it_trains_on_the_cpu(workspace, device, run_stage, tmp_path, monkeypatch):
    asked = []
    generate = MultimodalPolicy.generate
    monkeypatch.setattr(
        MultimodalPolicy, "generate", lambda self, *given: asked.append(self.device) or generate(self, *given)
    )
    ours = run_stage("sft", tmp_path / "device", 2, *ON_DEVICE, *SHORT)
    assert set(asked) == {device}
    with host_alone(torch.device("cpu")):
        theirs = run_stage("sft", tmp_path / "host", 2, *SHORT)
    assert_equal(checkpoint_of(ours), checkpoint_of(theirs), 1e-4)


def test_grpo_resumes_in_the_middle_of_a_buffer(workspace, device, run_stage, tmp_path):
    options = (
        *ON_DEVICE,
        "stage.beta=0.04",
        "stage.num_generations=3",
        "stage.num_iterations=2",
        "prompt.max_completion_length=6",
    )
    uncut = checkpoint_of(run_stage("grpo", tmp_path / "uncut", 3, *options, "init_from=null"))
    run_stage("grpo", tmp_path / "cut", 1, *options, "init_from=null")
    torch.manual_seed(99)
    resumed = checkpoint_of(run_stage("grpo", tmp_path / "cut", 3, *options, "init_from=null", "ckpt_path=last"))
    assert_equal(resumed, uncut, 0.0)
    assert not any(isinstance(tensor, SimulatedTensor) for tensor in resumed["state_dict"].values())
