"""A toy checkpoint in the published format, of several input modes: imported, answered, exported and trained on."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.cli.convert import main
from affectgpt_r1.cli.export import main as export_main
from affectgpt_r1.config.initial_policy import check_initial_policy
from affectgpt_r1.config.instantiate import build_policy
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.inference.load_policy import load_predictor
from affectgpt_r1.policy.hf_export import export_policy, load_exported
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.published_names import LINEAR_LAYERS
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling
from helpers.configs import compose_config
from helpers.toy_folders import TOY, build, toy_config_of, write_toy_folders

MODES = {  # published mode -> the fusion, the media and the placeholders of its prompt
    "face": ({"multi": "none"}, "face", ("video", "audio", "text"), ("Audio", "Face")),
    "frame": ({"multi": "none"}, "frame", ("video", "audio", "text"), ("Audio", "Frame")),
    "faceframe": ({"multi": "none"}, "both", ("video", "audio", "text"), ("Audio", "Face", "Frame")),
    "multiface_text": ({"video": "none", "audio": "none"}, "face", ("video", "audio", "text"), ("Multi",)),
    "audio_text": ({"multi": "none"}, "face", ("audio", "text"), ("Audio",)),
    "multiface_audio_face_text": ({}, "face", ("video", "audio", "text"), ("Multi", "Audio", "Face")),
}
GREEDY = Sampling(temperature=0.0, max_completion_length=6)
SIZES = [f"model.{part}.{key}={value}" for part, widths in TOY.items() for key, value in widths.items()]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tokenizer_file):
    folder = tmp_path_factory.mktemp("pretrained")
    write_toy_folders(folder, tokenizer_file)
    return folder


@pytest.fixture(scope="module")
def everything(weights):
    """A policy with each part that a released file holds, its adapters moved."""
    config = toy_config_of(weights)
    config["language_model"]["dtype"] = config["video_encoder"]["dtype"] = "float32"
    policy = build(config, seed=5, fusion="attention", fusion_hidden_size=32)
    policy.fusion.image = torch.nn.Linear(16, 32)  # still images' projector, as every file has it
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return config, policy


def published_name(ours):
    if ours.startswith("language_model."):
        return f"llama_model.base_model.model.{ours.removeprefix('language_model.')}"
    layers = {place: name for name, place in LINEAR_LAYERS.items()}
    layer, _, weight = ours.replace("fusion.image.", "fusion.image.projection.").rpartition(".")
    return f"{layers[layer]}.{weight}"


@pytest.fixture
def released(everything, tmp_path):
    def write(mode):
        _, policy = everything
        kinds = {f"{part}_fusion_type": "attention" for part in ("video", "audio", "multi")}
        config = {
            "model": {"llama_model": "Qwen25", **kinds, "lora_r": 16, "num_video_query_token": 1},
            "datasets": {"mercaptionplus": {"face_or_frame": mode, "label_type": "hybird"}},
        }
        state = {published_name(name): one.detach() for name, one in policy.trainable_parameters().items()}
        torch.save({"model": state, "config": config, "epoch": 30, "scaler": None}, tmp_path / "released.pth")
        return tmp_path / "released.pth"

    return write


def config_of(checkpoint):
    """A run under the settings that a checkpoint carries."""
    stored = torch.load(checkpoint, weights_only=True)["config"]
    config = compose_config("train", "experiment=affectgpt/published", f"init_from={checkpoint}")
    for section in ("model", "data", "prompt"):
        OmegaConf.update(config, section, stored[section], merge=False)
    return config


@torch.no_grad()
def logps(policy, batch):
    return policy.eval().per_token_logps(batch, policy.encode_targets(batch))


@pytest.mark.parametrize("mode", MODES)
def test_a_file_of_each_mode_is_a_policy(released, everything, weights, make_batch, tmp_path, mode):
    fusion, visual, modalities, placeholders = MODES[mode]
    sizes = [*SIZES, "model.fusion_hidden_size=32", "model.language_model.dtype=float32"]
    main([str(released(mode)), "--output", str(tmp_path / "run"), f"paths.weights={weights}", *sizes])
    config = config_of(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert (config.data.visual, tuple(config.data.modalities)) == (visual, modalities)
    policy = build_policy(config)

    # The same weights by our own names, in a model that is built for the mode.
    toy, whole = everything
    kinds = {"video": "attention", "audio": "attention", "multi": "attention"} | fusion
    expected = build(toy, seed=5, fusion=kinds, fusion_hidden_size=32, waveform_normalization="joint")
    state = whole.state_dict()
    expected.load_state_dict({name: state[name] for name in expected.state_dict()})
    template = PromptTemplate(config.prompt.question, visual=visual, kind="ovlabel", bos_at_inference=False)
    expected.template = dataclasses.replace(template, shown=expected.fusion.shown)
    batch = make_batch(2, modalities=(modalities,) * 2)
    batch = batch if "video" in modalities else dataclasses.replace(batch, frames=None)
    batch = dataclasses.replace(batch, context_frames=batch.frames if visual == "both" else None)
    prompt = policy.prompts(batch)[0]
    assert [name for name in ("Multi", "Audio", "Face", "Frame") if f"<{name}Here>" in prompt] == list(placeholders)
    torch.testing.assert_close(logps(policy, batch), logps(expected, batch), rtol=0, atol=1e-5)
    answers = policy.generate(batch, 1, GREEDY).texts
    assert answers == expected.eval().generate(batch, 1, GREEDY).texts

    # Trained on, and exported.
    SFTStage().training_step(policy.train(), batch, seed=0).loss.backward()
    still = [name for name, one in policy.trainable_parameters().items() if "lora_B" in name and one.grad is None]
    assert still == []
    model = {
        key: value for key, value in OmegaConf.to_container(config.model, resolve=True).items() if key != "_target_"
    }
    export_policy(policy, model, tmp_path / "out", kind="merged", processor={}, max_completion_length=6, card="")
    assert load_exported(tmp_path / "out").generate(batch, 1, GREEDY).texts == answers


def test_imported_weights_run_in_float16(released, weights, make_batch, tmp_path):
    out = ["--output", str(tmp_path / "run"), f"paths.weights={weights}", *SIZES, "model.fusion_hidden_size=32"]
    main([str(released("face")), *out])
    policy = build_policy(config_of(tmp_path / "run" / "checkpoints" / "best.ckpt"))
    dtypes = {name.split(".")[0]: one.dtype for name, one in policy.named_parameters() if not one.requires_grad}
    assert dtypes == {"language_model": torch.float16, "encoders": torch.float32}
    assert policy.language_model.lm_head.weight.dtype == torch.float16
    assert logps(policy, make_batch(2)).isfinite().all()
    SFTStage().training_step(policy.train(), make_batch(2), seed=0).loss.backward()
    gradients = [one.grad for name, one in policy.trainable_parameters().items() if "lora_B" in name]
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in gradients)


def test_an_imported_run_answers_media_files(released, weights, write_mp4, tmp_path):
    out = ["--output", str(tmp_path / "run"), f"paths.weights={weights}", *SIZES, "model.fusion_hidden_size=32"]
    main([str(released("frame")), *out])
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    predictor = load_predictor(best, ["prompt.max_completion_length=4"], device="cpu", faces="centre")
    assert (predictor.media.visual, predictor.media.channel_order) == ("frame", "rgb")
    assert predictor.policy.template.bos_at_inference is False
    row = predictor(write_mp4(tmp_path / "clip.mp4"), "What a lovely day!")
    assert set(row["modalities"]) == {"video", "audio", "text"}
    assert row["completion"]


def test_an_imported_run_is_exported_by_the_command(released, weights, make_batch, tmp_path):
    sizes = [*SIZES, "model.fusion_hidden_size=32", "model.language_model.dtype=float32"]
    file, out = released("multiface_audio_face_text"), ["--output", str(tmp_path / "run"), f"paths.weights={weights}"]
    main([str(file), *out, *sizes])
    best, out = tmp_path / "run" / "checkpoints" / "best.ckpt", tmp_path / "out"
    export_main([f"init_from={best}", "--output", str(out), f"paths.weights={weights}"])
    policy, exported, batch = build_policy(config_of(best)).eval(), load_exported(out), make_batch(2)
    assert exported.generate(batch, 1, GREEDY).texts == policy.generate(batch, 1, GREEDY).texts
    assert json.loads((out / "preprocessor_config.json").read_text())["windows"] == "published"


def test_training_under_other_rules_than_the_imported_ones_says_so(released, weights, tmp_path, caplog):
    sizes = [*SIZES, "model.fusion_hidden_size=32"]
    file, out = released("multiface_audio_face_text"), ["--output", str(tmp_path / "run"), f"paths.weights={weights}"]
    main([str(file), *out, *sizes])
    start = [f"init_from={tmp_path}/run/checkpoints/best.ckpt", f"paths.weights={weights}", *sizes]

    def warned(experiment):
        caplog.clear()
        config = compose_config("train", f"experiment={experiment}", *start)
        with caplog.at_level("WARNING"):
            check_initial_policy(config)
        return [one.getMessage().partition(":")[0] for one in caplog.records]

    rules = {"data.windows", "data.frame_resize", "data.face_resize", "data.channel_order"}
    assert not rules & set(warned("affectgpt/published"))
    assert rules <= set(warned("affectgpt/mercaption"))
    with pytest.raises(ConfigError, match=r"init_from=.* was trained with"):
        warned("affectgpt_r1/grpo")
