"""A seed fixes a run: whatever the process drew before, the weights are the same."""

from __future__ import annotations

import pytest
import torch

from helpers.runs import assert_equal_weights, checkpoint_of


@pytest.mark.parametrize(
    ("experiment", "start"), [("pretrain_encoders", ()), ("sft", ()), ("grpo", ("init_from=null",))]
)
def test_equal_seeds_give_equal_weights(run_stage, tmp_path, experiment, start):
    weights = []
    for number in (1, 2):
        torch.manual_seed(number)
        folder = run_stage(experiment, tmp_path / str(number), 2, *start)
        weights.append(checkpoint_of(folder))
    assert_equal_weights(*weights)
