from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from affectgpt_r1.errors import CheckpointError, ConfigError, TrainingError
from affectgpt_r1.training.sanity_checks import (
    check_finite,
    check_finite_gradients,
    check_full_precision,
    check_gradients,
    check_local_rows,
    check_loss_has_gradient,
    check_num_processes,
    check_trainable,
    divergence_remedy,
    gradient_norm,
)
from affectgpt_r1.types import CompletionRecord, StageOutput


def test_a_model_of_which_nothing_trains_is_refused():
    layer = nn.Linear(2, 2)
    check_trainable(layer.named_parameters(), "GRPOStage")
    with pytest.raises(ConfigError, match=r"stage=GRPOStage: no weight trains.*target_modules"):
        check_trainable(layer.requires_grad_(False).named_parameters(), "GRPOStage")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_train_are_in_float32(dtype):
    layer = nn.Linear(2, 2).to(dtype)
    with pytest.raises(ConfigError, match=r"weight would train in b?float16 .*dtype=float32"):
        check_full_precision(layer.named_parameters())
    layer.requires_grad_(False)
    check_full_precision([*layer.named_parameters(), *nn.Linear(2, 2).named_parameters()])


def test_a_loss_without_gradient_is_refused():
    check_loss_has_gradient(torch.zeros((), requires_grad=True), "SFTStage")
    with pytest.raises(ConfigError, match="stage=SFTStage: the loss depends on no weight"):
        check_loss_has_gradient(torch.zeros(()), "SFTStage")


def test_missing_gradients_are_refused_but_zeros_are_not():
    used, unused = nn.Linear(2, 1), nn.Linear(2, 1)
    (used(torch.ones(2)) * 0).sum().backward()
    check_gradients([*used.parameters(), *unused.parameters()], "GRPOStage")
    with pytest.raises(ConfigError, match="gave no weight a gradient"):
        check_gradients(unused.parameters(), "GRPOStage")


@pytest.mark.parametrize(("loss", "kl"), [(math.nan, 0.1), (math.inf, 0.1), (0.5, math.inf), (0.5, math.nan)])
def test_nonfinite_figures_stop_the_run_and_leave_the_completions(make_batch, tmp_path, loss, kl):
    record = CompletionRecord("clip_7", "prompt", "happy", "<answer> 喜 </answer>", {"format": 1.0}, 1.0, math.nan)
    output = StageOutput(torch.tensor(loss), {"kl": torch.tensor(kl)}, [record])
    with pytest.raises(TrainingError, match=r"Step 12: loss = .*, kl = .* on clip_7;.*nonfinite_step_000012\.jsonl"):
        check_finite(output, make_batch(2), tmp_path / "run", 12)
    (line,) = (tmp_path / "run" / "nonfinite_step_000012.jsonl").read_text("utf-8").splitlines()
    written = json.loads(line)
    assert written == {"name": "clip_7", "completion": "<answer> 喜 </answer>", "reward": 1.0, "advantage": None}


def test_a_stage_without_completions_leaves_the_clips(make_batch, tmp_path):
    with pytest.raises(TrainingError, match="on clip_0, clip_1"):
        check_finite(StageOutput(torch.tensor(math.nan), {}), make_batch(2), tmp_path, 3)
    assert "happy, proud" in (tmp_path / "nonfinite_step_000003.jsonl").read_text("utf-8")


def test_finite_figures_pass(make_batch, tmp_path):
    check_finite(StageOutput(torch.tensor(1.0), {"kl": torch.tensor(0.0)}), make_batch(2), tmp_path, 3)
    assert not list(tmp_path.iterdir())


def test_the_remedy_can_be_followed(make_batch, tmp_path):
    """SFT has no stage.beta, and a run that has written no checkpoint cannot be resumed."""
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    assert divergence_remedy(tmp_path, has_kl=False) == "Lower optim.optimizer.lr, then run the command again"
    last.touch()
    remedy = divergence_remedy(tmp_path, has_kl=True)
    assert remedy == f"Lower optim.optimizer.lr or raise stage.beta, then resume by ckpt_path={last}"
    last.with_name("best.ckpt").touch()
    assert divergence_remedy(tmp_path, has_kl=True) == f"{remedy}; if the weights there have diverged already, by " + (
        f"ckpt_path={tmp_path}/checkpoints/best.ckpt"
    )
    with pytest.raises(TrainingError, match=f"resume by ckpt_path={last}"):
        check_finite(StageOutput(torch.tensor(math.nan), {}), make_batch(2), tmp_path, 3, remedy)


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_step_that_would_spoil_the_weights_is_not_taken(norm):
    check_finite_gradients(torch.tensor(1e30), 4, "Lower the rate")
    with pytest.raises(TrainingError, match=r"Step 4: the gradients' norm is .*though the loss is finite\. Lower the"):
        check_finite_gradients(torch.tensor(norm), 4, "Lower the rate")
    check_finite_gradients(
        torch.tensor(norm), 4, "Lower the rate", scaler=torch.amp.GradScaler("cpu")
    )  # which skips it


def test_gradient_norm_by_hand():
    layer = nn.Linear(2, 1)
    assert gradient_norm(layer.parameters()).item() == 0
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert gradient_norm(layer.parameters()).item() == 5


def test_a_process_without_a_validation_clip_is_refused():
    check_local_rows(2, 2)
    with pytest.raises(ConfigError, match=r"2 validation clips for 3 processes: .*trainer\.devices"):
        check_local_rows(2, 3)


def test_another_number_of_processes_is_refused():
    check_num_processes(2, 2)
    with pytest.raises(CheckpointError, match=r"written by 2 processes, here are 4; .*init_from="):
        check_num_processes(2, 4)
