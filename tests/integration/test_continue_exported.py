"""A run goes on from the folder that another one was exported to, and can be resumed and exported itself."""

from __future__ import annotations

import torch
from hydra import compose, initialize_config_dir

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.config.export_checkpoint import export
from affectgpt_r1.config.instantiate import prepare_process


def test_a_run_goes_on_from_an_exported_folder(run_stage, stage_overrides, tmp_path):
    last = run_stage("sft", tmp_path / "first", 2) / "checkpoints" / "last.ckpt"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", list(stage_overrides("sft", tmp_path / "none", 1, f"init_from={last}")))
    prepare_process(config)
    folder = export(config, tmp_path / "folder", "merged")
    lora = "model.lora={r: 2, alpha: 4, dropout: 0.0, target_modules: [q_proj, lm_head]}"
    start = (f"init_from={folder}", lora)
    whole = run_stage("sft", tmp_path / "whole", 3, *start)
    cut = run_stage("sft", tmp_path / "cut", 2, *start)
    cut = run_stage("sft", tmp_path / "cut", 3, *start, "ckpt_path=last")
    ends = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, cut)]
    assert ends[0]["state_dict"].keys() == ends[1]["state_dict"].keys()
    for name, tensor in ends[0]["state_dict"].items():
        assert tensor.equal(ends[1]["state_dict"][name]), name
    stored = ends[0]["config"]
    assert stored["model"]["language_model"]["pretrained"] == str(folder)
    assert stored["encoders_from"] == str(folder)
    assert "language model" in ends[0]["digests"]

    best = compose_again(stage_overrides("sft", tmp_path / "none", 1, *start), stored, whole)
    export(best, tmp_path / "second", "merged")
    assert (tmp_path / "second" / "multimodal.safetensors").is_file()


def compose_again(overrides, stored, run):
    """The configuration of a run, as its checkpoint holds it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", list(overrides))
    config.model, config.encoders_from = stored["model"], stored["encoders_from"]
    config.init_from = str(run / "checkpoints" / "last.ckpt")
    return config
