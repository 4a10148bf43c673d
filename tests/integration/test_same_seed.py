"""A seed settles a run: whatever the process drew before, the weights come out the same."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(
    ("experiment", "start"), [("pretrain_encoders", ()), ("sft", ()), ("grpo", ("init_from=null",))]
)
def test_equal_seeds_give_equal_weights(run_stage, tmp_path, experiment, start):
    weights = []
    for number in (1, 2):
        torch.manual_seed(number)
        folder = run_stage(experiment, tmp_path / str(number), 2, *start)
        weights.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
