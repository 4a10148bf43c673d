"""R1-Omni's released folder, at toy width under its own names: converted, answered with, trained on."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from affectgpt_r1.cli.convert import main
from affectgpt_r1.config.instantiate import build_policy
from affectgpt_r1.inference.load_policy import load_predictor
from affectgpt_r1.policy.hf_export import load_exported
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling
from helpers.configs import compose_config
from helpers.toy_humanomni import SHORT, toy_batch, toy_policy

GREEDY = Sampling(temperature=0.0, max_completion_length=6)
TOWERS = ("model.vision_tower.", "model.audio_tower.")


def published_name(name: str) -> str:
    """The released file's name of one of ours, written down apart from the table that reads it."""
    words = name.split(".")
    part, rest = ".".join(words[:2]), ".".join(words[2:])
    if words[0] == "language_model":
        return name.removeprefix("language_model.")
    if part == "encoders.video":
        return "model.vision_tower.vision_tower.vision_model." + rest.removeprefix("model.").removeprefix(
            "vision_model."
        )
    if part == "encoders.audio":
        return "model.audio_tower.audio_tower." + rest.removeprefix("model.")
    if part in ("fusion.bert", "fusion.gate", "fusion.audio"):
        return {"bert": "model.bert_model.", "gate": "model.bert_gate.", "audio": "model.audio_projector."}[
            words[1]
        ] + rest
    reading = words[1]
    if reading == "face":
        return "model.mm_projector.mlp_2xgelu_face." + rest.removeprefix("readout.")
    if words[2] == "sampler":
        return f"model.mm_projector.sampler_{reading}.0.{words[3]}"
    if words[2] == "readout":
        return f"model.mm_projector.readout_{reading}.{'.'.join(words[3:])}"
    inner = ".".join(words[4:]).replace("norm", "bn").replace("shortcut", "downsample")
    inner = inner.replace("excite.reduce", "se.fc1").replace("excite.expand", "se.fc2")
    return f"model.mm_projector.s{words[2][-1]}_{reading}.b{int(words[3]) + 1}.{inner}"


@pytest.fixture(scope="module")
def policy(tokenizer_file):
    return toy_policy(tokenizer_file, seed=4).eval()


@pytest.fixture
def released(policy, tokenizer_file, tmp_path):
    """A folder with the released file's names."""
    folder = tmp_path / "R1-Omni-toy"
    folder.mkdir()
    state = {name: tensor for name, tensor in policy.state_dict().items() if "lm_head" not in name}
    save_file(
        {published_name(name): tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors"
    )
    (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    return folder


@pytest.fixture
def convert(tokenizer_file, tmp_path, capsys):
    def run(folder, *more):
        given = [
            "model=humanomni_tiny",
            f"model.question_encoder.tokenizer={tokenizer_file}",
            f"model.audio_encoder.max_source_positions={SHORT['max_source_positions']}",
            "model.language_model.num_hidden_layers=2",
            "data.window_seconds=0.6",
            "prompt.max_completion_length=8",
        ]
        main([str(folder), "--output", str(tmp_path / "out"), *given, *more])
        return capsys.readouterr().out

    return run


def test_published_names_are_those_of_the_released_file(policy):
    names = {published_name(name): tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    for name in (
        "model.mm_projector.s1_video.b1.downsample.conv.weight",
        "model.mm_projector.s2_body.b2.se.fc1.bias",
        "model.mm_projector.s1_body.b1.conv2.bn.weight",
        "model.mm_projector.sampler_video.0.bias",
        "model.mm_projector.readout_body.2.weight",
        "model.mm_projector.mlp_2xgelu_face.0.weight",
        "model.bert_gate.2.weight",
        "model.audio_projector.0.weight",
        "model.audio_tower.audio_tower.encoder.conv1.weight",
        "model.audio_tower.audio_tower.classifier.weight",
        "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight",
        "model.bert_model.embeddings.word_embeddings.weight",
        "model.layers.0.self_attn.q_proj.bias",
    ):
        assert name in names


def test_converted_weights_answer_as_before(policy, released, convert, tmp_path):
    said = convert(released)
    total = sum(param.numel() for param in policy.parameters())
    assert f"tensors, {total:,} parameters. Answer with --checkpoint" in said
    loaded = load_exported(tmp_path / "out")
    expected, found = (each.generate(toy_batch(), 1, GREEDY) for each in (policy, loaded))
    # The question differs, so that prompts do; the weights are the same.
    assert all(tensor.equal(policy.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    loaded.template = policy.template
    found = loaded.generate(toy_batch(), 1, GREEDY)
    assert found.completions.ids.equal(expected.completions.ids)
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["frame_resize"] == "bicubic"


def test_a_converted_folder_answers_a_video(released, convert, tmp_path, write_video):
    convert(released)
    predictor = load_predictor(tmp_path / "out", device="cpu")
    row = predictor(write_video(tmp_path / "clip.mp4", sound=True))
    assert row["modalities"] == ["video", "audio"]
    assert isinstance(row["completion"], str)


def test_a_converted_folder_trains_on(released, convert, tmp_path):
    convert(released)
    config = compose_config(
        "train", "experiment=r1_omni/rlvr", "model=humanomni_tiny", f"init_from={tmp_path}/out", "trainer=cpu"
    )
    policy = build_policy(config).train()
    assert config.model.family == "humanomni"
    policy.disable_dropout()
    SFTStage().training_step(policy, toy_batch(), seed=0).loss.backward()
    moved = [name for name, param in policy.trainable_parameters().items() if param.grad is not None]
    assert {name.partition(".")[0] for name in moved} == {"language_model", "fusion"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("model.bert_gate.2.bias"),
            r"lacks 1 weights of this model, such as fusion\.gate\.2\.bias",
        ),
        (
            lambda state: state.update({"model.mm_projector.s3_video.b1.conv1.conv.weight": torch.zeros(1)}),
            r"model\.mm_projector\.s3_video\.b1\.conv1\.conv\.weight has no place in this model",
        ),
        (
            lambda state: state.update({"model.norm.weight": torch.zeros(4)}),
            r"language_model\.model\.norm\.weight has shape \(4,\), here \(128,\)",
        ),
        (
            lambda state: state.pop("model.audio_tower.audio_tower.encoder.conv1.bias"),
            r"lacks 1 weights of this model, such as encoders\.audio\.model\.encoder\.conv1\.bias",
        ),
    ],
)
def test_a_wrong_or_missing_tensor_is_named(released, convert, tmp_path, capsys, change, message):
    state = load_file(released / "model.safetensors")
    change(state)
    save_file(state, released / "model.safetensors")
    with pytest.raises(SystemExit):
        convert(released)
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_tied_head_in_the_file_is_left_out(released, convert):
    state = load_file(released / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, released / "model.safetensors")
    assert "Without lm_head.weight, which is the embedding." in convert(released)


def test_a_file_without_towers_takes_them_from_their_own_folders(policy, released, convert, tmp_path):
    state = load_file(released / "model.safetensors")
    save_file({name: one for name, one in state.items() if not name.startswith(TOWERS)}, released / "model.safetensors")
    policy.encoders.video.model.save_pretrained(tmp_path / "weights" / "siglip")
    policy.encoders.audio.model.save_pretrained(tmp_path / "weights" / "whisper")
    given = [f"model.{part}_encoder.pretrained={name}" for part, name in (("video", "siglip"), ("audio", "whisper"))]
    said = convert(released, f"model.weights={tmp_path}/weights", *given)
    assert "Its encoders came from their own folders." in said
    loaded = load_exported(tmp_path / "out")
    own = {name: one for name, one in policy.encoders.state_dict().items() if "projector" not in name}
    own = {name: one for name, one in own.items() if "classifier" not in name}
    assert all(tensor.equal(loaded.encoders.state_dict()[name]) for name, tensor in own.items())
