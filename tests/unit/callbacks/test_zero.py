"""Dealt optimizer states as files have them, on what DeepSpeed keeps; DeepSpeed itself is in tests/integration."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, MixedPrecision, Precision
from torch import nn
from torch.optim import AdamW

from affectgpt_r1.callbacks.zero import ZeroStrategy

SHAPES = (((2, 3), (4, 1)), ((3,),))
"""Of two groups; the flat weights of the first are padded to twelve, of the second to four."""


def weights() -> list[list[nn.Parameter]]:
    torch.manual_seed(0)
    return [[nn.Parameter(torch.randn(shape)) for shape in shapes] for shapes in SHAPES]


def optimizer(groups, lr: float = 0.1) -> AdamW:
    return AdamW(
        [{"params": one, "weight_decay": decay} for one, decay in zip(groups, (0.05, 0.0), strict=True)], lr=lr
    )


def gradients(step: int) -> list[list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(step)
    return [[torch.randn(shape, generator=draw) for shape in shapes] for shapes in SHAPES]


def step_whole(groups, stepped, step: int) -> None:
    for group, slopes in zip(groups, gradients(step), strict=True):
        for parameter, slope in zip(group, slopes, strict=True):
            parameter.grad = slope
    stepped.step()


class Flat:
    """What ZeRO keeps of one process alone: flat weights, of which the parameters are parts, and the optimizer."""

    def __init__(self, lr: float = 0.1) -> None:
        self.bit16_groups, self.bit16_groups_flat, shares = weights(), [], []
        for group, size in zip(self.bit16_groups, (12, 4), strict=True):
            storage = torch.zeros(5 + size)  # the flat weights need not stand first in theirs
            flat, first = storage[5:], 0
            for parameter in group:
                part = flat[first : first + parameter.numel()].view(parameter.shape)
                part.copy_(parameter.data)
                parameter.data, first = part, first + parameter.numel()
            self.bit16_groups_flat.append(flat)
            shares.append([nn.Parameter(flat)])
        self.optimizer = optimizer(shares, lr)

    def step(self, step: int) -> None:
        for group, slopes in zip(self.optimizer.param_groups, gradients(step), strict=True):
            (share,) = group["params"]
            share.grad = torch.cat([*(slope.flatten() for slope in slopes), torch.zeros(len(share))])[: len(share)]
        self.optimizer.step()


def strategy(flat: Flat) -> ZeroStrategy:
    made = ZeroStrategy.__new__(ZeroStrategy)  # DeepSpeed may not be installed
    made._zero, made.cluster_environment = flat, None
    return made


def assert_equal_states(found: dict, expected: dict) -> None:
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        assert found["state"][number].keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(found["state"][number][name], tensor), (number, name)


def test_a_file_has_the_states_of_an_optimizer_of_whole_weights():
    flat, groups = Flat(), weights()
    stepped = optimizer(groups)
    assert_equal_states(strategy(flat).optimizer_state(None), stepped.state_dict())  # none yet
    for step in range(2):
        flat.step(step)
        step_whole(groups, stepped, step)
    found = strategy(flat).optimizer_state(None)
    assert_equal_states(found, stepped.state_dict())
    places = [tensor.untyped_storage().data_ptr() for state in found["state"].values() for tensor in state.values()]
    assert len(set(places)) == 9  # an optimizer that loads them steps them one by one


def test_states_of_whole_weights_are_resumed():
    groups, flat = weights(), Flat(lr=0.7)
    stepped = optimizer(groups)
    for step in range(2):
        step_whole(groups, stepped, step)
    with torch.no_grad():
        for group, own in zip(groups, flat.bit16_groups, strict=True):
            for parameter, part in zip(group, own, strict=True):
                part.copy_(parameter)
    strategy(flat).load_optimizer_state_dict({"optimizer_states": [stepped.state_dict()]})
    flat.step(2)
    step_whole(groups, stepped, 2)
    assert flat.optimizer.param_groups[0]["lr"] == 0.1
    for group, own in zip(groups, flat.bit16_groups, strict=True):
        for parameter, part in zip(group, own, strict=True):
            torch.testing.assert_close(part, parameter.data, rtol=0, atol=1e-7)


def test_a_weight_without_moments_gets_zeros():
    groups, flat = weights(), Flat()
    stepped = optimizer(groups)
    step_whole(groups, stepped, 0)
    stored = stepped.state_dict()
    del stored["state"][0]
    strategy(flat).load_optimizer_state_dict({"optimizer_states": [stored]})
    first, second = strategy(flat).optimizer_state(None)["state"][0], stored["state"][1]
    assert torch.equal(first["exp_avg"], torch.zeros(2, 3))
    assert torch.equal(strategy(flat).optimizer_state(None)["state"][1]["exp_avg"], second["exp_avg"])
    assert first["step"] == second["step"] == 1


def test_autocast_takes_the_place_of_casting_weights():
    made = ZeroStrategy.__new__(ZeroStrategy)
    made._accelerator = None
    made.precision_plugin = DeepSpeedPrecision("bf16-mixed")
    assert isinstance(made.precision_plugin, MixedPrecision)
    made.precision_plugin = DeepSpeedPrecision("32-true")
    assert type(made.precision_plugin) is Precision
    batch = SimpleNamespace(frames=torch.ones(2, dtype=torch.float32))
    assert made.precision_plugin.convert_input(batch) is batch
    with pytest.raises(MisconfigurationException, match="bf16-mixed or 32-true, not in 16-mixed"):
        made.precision_plugin = DeepSpeedPrecision("16-mixed")
