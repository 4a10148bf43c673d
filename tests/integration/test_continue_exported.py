"""A run starts from the folder that another one was exported to, and can be resumed and exported itself."""

from __future__ import annotations

from affectgpt_r1.config.export_checkpoint import export
from affectgpt_r1.config.prepare_process import prepare_process
from helpers.configs import compose_config
from helpers.runs import assert_equal_weights, checkpoint_of


def test_a_run_starts_from_an_exported_folder(run_stage, stage_overrides, start, tmp_path):
    config = compose_config("train", *stage_overrides("sft", tmp_path / "none", 1, start))
    prepare_process(config)
    folder = export(config, tmp_path / "folder", "merged")
    lora = "model.lora={r: 2, alpha: 4, dropout: 0.0, target_modules: [q_proj, lm_head]}"
    exported = (f"init_from={folder}", lora)
    uncut = run_stage("sft", tmp_path / "uncut", 3, *exported)
    cut = run_stage("sft", tmp_path / "cut", 2, *exported)
    cut = run_stage("sft", tmp_path / "cut", 3, *exported, "ckpt_path=last")
    last = checkpoint_of(uncut)
    assert_equal_weights(last, checkpoint_of(cut))
    stored = last["config"]
    assert stored["model"]["language_model"]["pretrained"] == str(folder)
    assert stored["encoders_from"] == str(folder)
    assert "language model" in last["digests"]

    best = compose_again(stage_overrides("sft", tmp_path / "none", 1, *exported), stored, uncut)
    export(best, tmp_path / "second", "merged")
    assert (tmp_path / "second" / "multimodal.safetensors").is_file()


def compose_again(overrides, stored, run):
    """Return the configuration of a run, as its checkpoint holds it."""
    config = compose_config("train", *overrides)
    config.model, config.encoders_from = stored["model"], stored["encoders_from"]
    config.init_from = str(run / "checkpoints" / "last.ckpt")
    return config
