"""Checkpoint folders with the names that DeepSpeed and Lightning give them, made by hand: neither runs on a CPU."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import check_there, read_checkpoint

TRAINED = {"policy.projector.weight": torch.ones(2, 3).bfloat16(), "policy.lora.weight": torch.zeros(4).bfloat16()}


def write(folder, **more):
    """What ZeRO stage 2 keeps beside optimizer states; buffers stand among the weights."""
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "latest").write_text("checkpoint")
    state = {
        "module": OrderedDict(TRAINED) | {"policy.positions": torch.arange(3)},
        "buffer_names": ["policy.positions"],
        "optimizer": None,
        "param_shapes": [OrderedDict((name, one.shape) for name, one in TRAINED.items())],
        "frozen_param_shapes": None,
        "shared_params": {},
        "frozen_param_fragments": None,
        "lr_scheduler": None,
        "sparse_tensor_module_names": set(),
        "global_steps": 7,
        "ds_config": {"zero_optimization": {"stage": 2}},
        "ds_version": "0.19.8",
        "epoch": 0,
        "pytorch-lightning_version": "2.6.6",
        "digests": {"tokenizer": "abc"},
        "position": [0, 7],
        **more,
    }
    torch.save(state, folder / "checkpoint" / "mp_rank_00_model_states.pt")
    return folder


def test_a_folder_of_stage_two_reads_as_a_file_does(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "last.ckpt"))
    assert checkpoint["state_dict"].keys() == TRAINED.keys()  # no buffer
    assert all(torch.equal(checkpoint["state_dict"][name], one) for name, one in TRAINED.items())
    assert (checkpoint["digests"], checkpoint["position"]) == ({"tokenizer": "abc"}, [0, 7])


def test_code_in_a_folder_does_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    folder = write(tmp_path / "last.ckpt", client=Malicious())
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint(folder)
    assert not (tmp_path / "touched").exists()


def test_stage_three_and_other_folders_are_refused(tmp_path):
    (tmp_path / "three" / "checkpoint").mkdir(parents=True)
    (tmp_path / "three" / "checkpoint" / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    with pytest.raises(CheckpointError, match=r"three: ZeRO stage 3 .*zero_to_fp32\.py"):
        check_there(tmp_path / "three")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*empty"):
        read_checkpoint(tmp_path / "empty")
