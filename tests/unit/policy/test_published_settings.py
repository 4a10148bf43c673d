"""What a released checkpoint says of itself, and what it may not say."""

from __future__ import annotations

import copy

import pytest
import torch

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.published_settings import INPUT_MODES, published_settings

CONFIG = {
    "model": {"llama_model": "Qwen25", "lora_r": 4, "num_video_query_token": 1, "frozen_llm": False},
    "datasets": {"mercaptionplus": {"face_or_frame": "frame", "label_type": "hybird"}},
}


def tensors_of(*names, rank=4):
    layers = "llama_model.base_model.model.model.layers.0"
    lora = {f"{layers}.{name}.lora_A.default.weight" for name in ("mlp.up_proj", "self_attn.q_proj")}
    return {name: torch.zeros(rank, 2) for name in (*lora, *(f"{name}.weight" for name in names))}


ATTENTION = ("video_attention_mlp", "audio_attention_mlp", "attention_mlp")


def settings_of(change=lambda config: None, names=ATTENTION, mode=None, **options):
    config = copy.deepcopy(CONFIG)
    change(config)
    return published_settings(tensors_of(*names, **options), config, mode, "one.pth")


def test_settings_come_from_config_and_layers():
    settings = settings_of()
    assert settings["model.fusion"] == {"video": "attention", "audio": "attention", "multi": "none"}
    assert settings["model.lora"] == {"r": 4, "alpha": 32, "dropout": 0.05, "target_modules": ["q_proj", "up_proj"]}
    assert (settings["data.visual"], settings["data.modalities"]) == ("frame", ["video", "audio", "text"])
    assert settings["data.questions"] == ["description", "ovlabel"]


def test_query_formers_and_means_are_seen_from_the_layers():
    def spell(config):
        config["model"] |= {"num_audio_query_token": 8, "audio_fusion_type": "qformer", "video_fusion_type": "mean"}

    settings = settings_of(spell, ("audio_query_tokens", "attention_mlp"))
    assert settings["model.fusion"] == {"video": "mean", "audio": "qformer", "multi": "none"}


def test_one_kind_of_question_and_other_frames():
    def spell(config):
        config["datasets"]["mercaptionplus"]["label_type"] = "sentiment"
        config["model"]["vis_processor"] = {"train": {"n_frms": 16}}

    settings = settings_of(spell)
    assert (settings["prompt.kind"], settings["data.questions"]) == ("sentiment", ["sentiment"])
    assert settings["data.num_frames"] == 16


def test_a_file_without_its_mode_needs_it_named():
    def forget(config):
        del config["datasets"]

    with pytest.raises(CheckpointError, match="give --mode, one of multiface_audio_face_text"):
        settings_of(forget)
    assert settings_of(forget, mode="multiface_text")["model.fusion"]["video"] == "none"
    assert settings_of(forget, mode="image")["data.visual"] == "image"
    for mode in INPUT_MODES:
        assert settings_of(forget, mode=mode)["data.modalities"]


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (lambda config: config["model"].update(llama_model="Vicuna"), {}, "llama_model: Vicuna"),
        (lambda config: config["model"].update(lora_r=8), {}, r"lora_r: 8, but its adapters have \[4\]"),
        (lambda config: config["model"].update(video_fusion_type="qformer"), {}, "video_fusion_type: qformer, but"),
        (lambda config: config["model"].update(num_video_query_token=32), {}, "num_video_query_token: 32"),
        (lambda config: config["model"].update(frozen_llm=True), {}, "no adapters"),
        (lambda config: None, {"mode": "face"}, "--mode face: one.pth was trained with face_or_frame: frame"),
        (lambda config: None, {"names": ATTENTION[:2]}, "lacks the layers of its pre-fusion"),
        (lambda config: config["datasets"].update(b={"face_or_frame": "face"}), {}, "several input modes"),
        (lambda config: config["datasets"]["mercaptionplus"].update(face_or_frame="au"), {}, "mode au is unknown"),
    ],
)
def test_what_is_not_built_here_is_refused(change, options, told):
    with pytest.raises(CheckpointError, match=told):
        settings_of(change, **options)
