"""A checkpoint's settings: what is taken from them, what may be asked otherwise, what a stranger cannot do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.export_checkpoint import export
from affectgpt_r1.config.policy_config import lay_over, media_keys, settings_of_checkpoint
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.inference.load_policy import config_of_checkpoint, load_predictor
from affectgpt_r1.policy.checkpoint import policy_digests
from helpers.configs import compose_config


def composed(name: str, *overrides: str):
    return compose_config(name, *overrides)


def stored(*overrides: str) -> dict:
    """What a training run stores of its configuration."""
    plain = resolved(composed("train", *overrides))
    return {key: value for key, value in plain.items() if key not in ("ckpt_path", "paths", "logger", "callbacks")}


@pytest.fixture
def checkpoint(tmp_path: Path):
    """``checkpoint(*overrides, **changes)``: a file with the configuration of such a run, and no weights."""

    def write(*overrides: str, **changes) -> Path:
        config = OmegaConf.create(stored(*overrides))
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
        path = tmp_path / "best.ckpt"
        torch.save({"state_dict": {}, "config": OmegaConf.to_container(config)}, path)
        return path

    return write


TRAINED = ("data.modalities=[text]", "data.num_frames=4", "prompt=think", "model.fusion=mean", "emotion=mer2025")


def test_evaluation_takes_every_setting_of_the_checkpoint(checkpoint):
    config, notes = lay_over(composed("evaluate", "num_clips=3"), settings_of_checkpoint(checkpoint(*TRAINED)), [])
    assert (list(config.data.modalities), config.data.num_frames, config.model.fusion) == (["text"], 4, "mean")
    assert (config.prompt.enable_thinking, config.prompt.max_completion_length) == (True, 96)
    assert config.emotion.lexicon == "mer2025"
    assert config.num_clips == 3
    assert config.experiment_name == "demo-no_think-seed1"  # the folder that the user named stays
    assert notes == []


def test_every_media_setting_is_carried(checkpoint):
    """Also those that are added later: they are the fields of MediaSettings."""
    settings = settings_of_checkpoint(checkpoint("data.window_seconds=1.5", "data.channel_order=rgb"))
    assert {"modalities", "visual", "num_frames", "channel_order", "num_windows"} <= set(media_keys())
    own = {f"data.{key}" for key in media_keys()} & {f"data.{key}" for key in composed("train").data}
    assert all(key in settings for key in own)
    assert (settings["data.window_seconds"], settings["data.channel_order"]) == (1.5, "rgb")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "data.modalities=[video,text]",
            'data.modalities=["text"], here it is ["video", "text"]: give data.modalities=',
        ),
        ("data.num_frames=8", "data.num_frames=4, here it is 8: give data.num_frames=4"),
        ("prompt=no_think", "prompt.enable_thinking=true, here it is false: give prompt=think"),
        ("prompt.kind=ovlabel", 'prompt.kind="", here it is "ovlabel": give prompt=think'),
        ("model.fusion=attention", 'model.fusion="mean", here it is "attention"'),
        ("model=smol", "was trained with model.language_model.pretrained=null, here it is"),
        ("model.language_model.hidden_size=64", "model.language_model.hidden_size=128, here it is 64"),
        ("model.lora={r: 4}", "model.lora=null"),
    ],
)
def test_a_contradicting_override_is_refused_with_key_values_and_remedy(checkpoint, override, said):
    path = checkpoint(*TRAINED)
    with pytest.raises(CheckpointError) as refused:
        lay_over(composed("evaluate", override), settings_of_checkpoint(path), [override])
    assert str(refused.value).startswith(f"{path} was trained with ")
    assert said in str(refused.value)


def test_what_agrees_or_is_a_matter_of_the_machine_may_be_given(checkpoint):
    path = checkpoint("experiment=affectgpt_r1/grpo")
    given = [
        *("prompt=think", "model=affectgpt_7b", "data.modalities=[text,audio,video]", "data.decoder=pyav"),
        *("model.language_model.dtype=float32", "model.language_model.pretrained=/models/Qwen2.5-7B-Instruct"),
        *("data.eval_batch_size=7", "split=validation"),
    ]
    config, notes = lay_over(composed("evaluate", *given), settings_of_checkpoint(path), given)
    assert notes == []
    assert config.model.language_model.dtype == "float32"
    assert config.model.language_model.pretrained == "/models/Qwen2.5-7B-Instruct"
    assert config.model.video_encoder.dtype == "bfloat16"
    assert (config.data.decoder, config.data.eval_batch_size) == ("pyav", 7)
    assert config.prompt.max_completion_length == 1024  # prompt=think alone would say 96


def test_a_question_is_asked_and_noted(checkpoint):
    given = ["data.modalities=[text]", "prompt.force_answer=true", "prompt.kind=description", "emotion=mer2026"]
    path = checkpoint("prompt=ovlabel", "data.questions=[description,ovlabel]")
    config, notes = lay_over(composed("evaluate", *given), settings_of_checkpoint(path), given)
    assert (list(config.data.modalities), config.prompt.kind) == (["text"], "description")
    assert notes == [
        "evaluated with text of video, audio, text",
        "evaluated with prompt.force_answer=true, trained with false",
        'evaluated with prompt.kind="description", trained with "ovlabel"',
        'evaluated with emotion.lexicon="mer2026", trained with "bundled"',
    ]


def test_a_set_without_text_leaves_it_out_and_says_so(checkpoint):
    settings = settings_of_checkpoint(checkpoint())
    config, notes = lay_over(composed("evaluate", "data=dfew_mafw"), settings, ["data=dfew_mafw"])
    assert notes == ["evaluated with video, audio of video, audio, text"]
    assert list(config.data.modalities) == ["video", "audio"]
    assert config.data.visual == "face"


def test_tokenizer_and_encoders_are_found_where_they_were_or_where_the_user_says(checkpoint, tmp_path):
    place = "tokenizer/tokenizer.json"
    for folder in ("old", "new"):
        (tmp_path / folder / place).parent.mkdir(parents=True)
        (tmp_path / folder / place).write_text("{}")
    settings = settings_of_checkpoint(checkpoint(f"paths.data={tmp_path}/old", "encoders_from=null"))

    def tokenizer(*given: str) -> str:
        config, _ = lay_over(composed("evaluate", *given), settings, given)
        assert config.encoders_from is None
        return config.model.tokenizer

    assert tokenizer() == f"{tmp_path}/old/{place}"
    assert tokenizer(f"paths.data={tmp_path}/new") == f"{tmp_path}/new/{place}"
    assert tokenizer(f"paths.data={tmp_path}/none") == f"{tmp_path}/old/{place}"  # a data set without a tokenizer
    assert tokenizer("model.tokenizer=/mine.json") == "/mine.json"
    assert tokenizer("paths.tokenizer=/mine.json") == "/mine.json"
    (tmp_path / "old" / place).unlink()
    assert tokenizer(f"paths.data={tmp_path}/new") == f"{tmp_path}/new/{place}"


HOSTILE = {
    "model.language_model._target_": "os.system",
    "model.lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": [{"_target_": "os.system"}]},
    "data.modalities": {"_target_": "os.system", "command": "touch PWNED"},
    "prompt.question": "${oc.env:HOME}",
    "prompt._target_": "os.system",
    "model.video_encoder.attn_implementation": "someone/kernel",
    "model.language_model.auto_map": {"AutoModelForCausalLM": "someone/code--model.Model"},
    "model.language_model.dtype": "load",
    "model.fusion": "${PWNED}",
    "model.language_model.num_hidden_layers": 10**9,
    "model.audio_encoder.hidden_size": 1 << 40,
    "data.num_frames": "8",
    "data.num_windows": 10**12,
    "data.window_seconds": float("nan"),
    "data.visual": "backs",
    "prompt.enable_thinking": "yes",
    "model.hooks": ["os.system"],
    "emotion.lexicon": 3,
}


def with_value(config: dict, key: str, value) -> dict:
    changed = json.loads(json.dumps(config))
    *parents, last = key.split(".")
    node = changed
    for name in parents:
        node = node[name]
    node[last] = value
    return changed


@pytest.mark.parametrize("key", HOSTILE)
def test_what_is_not_a_plain_setting_is_refused_with_its_key(key, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(os, "system", started.append)
    config = with_value(stored(), key, HOSTILE[key])
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "config": config}, path)
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        config_of_checkpoint(path, [])
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        export(composed("train", f"init_from={path}"), tmp_path / "folder", "merged")
    assert started == []
    assert not (tmp_path / "folder").exists()


def test_only_our_own_targets_are_built(checkpoint, monkeypatch):
    started = []
    monkeypatch.setattr(os, "system", started.append)
    hostile = dict.fromkeys(("model___target_", "data___target_", "stage___target_", "logger___target_"), "os.system")
    path = checkpoint(**hostile, optim={"optimizer": {"_target_": "os.system"}})
    assert path.is_file()
    config = config_of_checkpoint(path, [])
    assert config.model._target_ == "affectgpt_r1.policy.build_policy.build_policy"
    assert config.data._target_ == "affectgpt_r1.data.datamodule.MERCaptionDataModule"
    assert "os.system" not in OmegaConf.to_yaml(config)
    assert started == []


def test_weights_without_settings_say_so(tmp_path):
    torch.save({"state_dict": {}, "digests": {}}, tmp_path / "imported.ckpt")
    assert settings_of_checkpoint(tmp_path / "imported.ckpt").origin is None
    with pytest.raises(CheckpointError, match=r"imported\.ckpt does not say how its policy was trained"):
        config_of_checkpoint(tmp_path / "imported.ckpt", [])


@pytest.fixture
def trained(make_policy, tokenizer_file, tiny_config, tmp_path) -> Path:
    """A complete policy in a file of its own: RGB crops, three frames, no text, at most five tokens."""
    policy = make_policy()
    given = (
        "experiment=demo/grpo",
        "data.modalities=[video,audio]",
        "data.num_frames=3",
        "data.num_windows=2",
        "seed=7",
    )
    encoders = {f"policy.encoders.{name}": one.detach() for name, one in policy.encoders.named_parameters()}
    torch.save({"state_dict": encoders}, tmp_path / "encoders.ckpt")
    given = (*given, f"encoders_from={tmp_path}/encoders.ckpt")
    config = stored(*given, "data.channel_order=rgb", "prompt.max_completion_length=5")
    config["model"] = {**tiny_config, "tokenizer": str(tokenizer_file), "_target_": "os.system"}
    config["data"]["image_size"] = 48
    state = {f"policy.{name}": one.detach() for name, one in policy.trainable_parameters().items()}
    path = tmp_path / "alone.ckpt"
    torch.save({"state_dict": state, "digests": policy_digests(policy), "config": config}, path)
    return path


def test_a_checkpoint_that_was_copied_alone_answers_as_it_was_trained(trained, write_video, tmp_path, capsys):
    predictor = load_predictor(trained, device="cpu", faces="centre")
    media = predictor.media
    assert (media.modalities, media.num_frames, media.channel_order) == (("video", "audio"), 3, "rgb")
    assert predictor.sampling.max_completion_length == 5
    row = predictor(write_video(tmp_path / "clip.mp4", sound=True), "Never mind.")
    assert row["modalities"] == ["video", "audio"]
    assert capsys.readouterr().err == ""
    predictor = load_predictor(trained, ["data.modalities=[audio]"], device="cpu", faces="centre")
    assert predictor.media.modalities == ("audio",)
    assert capsys.readouterr().err == "evaluated with audio of video, audio\n"
    with pytest.raises(CheckpointError, match=r"data\.channel_order=\"rgb\", here it is \"bgr\""):
        load_predictor(trained, ["data.channel_order=bgr"], device="cpu", faces="centre")


def test_export_of_a_checkpoint_alone_has_its_settings(trained, tmp_path):
    folder = export(composed("train", f"init_from={trained}"), tmp_path / "folder", "merged", [f"init_from={trained}"])
    processor = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
    assert (processor["modalities"], processor["num_frames"], processor["image_size"]) == (["video", "audio"], 3, 48)
    assert (processor["channel_order"], processor["lexicon"]) == ("rgb", "bundled")
    assert set(media_keys()) & set(composed("train").data) <= {*processor, "decoder"}
    card = (folder / "README.md").read_text("utf-8")
    assert "stage `grpo`, seed\n7" in card
    assert "Reads: video, audio," in card
    exported = settings_of_checkpoint(folder)
    assert (exported["data.num_frames"], exported["prompt.enable_thinking"]) == (3, False)
    assert load_predictor(folder, device="cpu", faces="centre").media.channel_order == "rgb"
