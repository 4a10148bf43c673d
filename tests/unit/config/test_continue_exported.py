"""Training continues from an exported folder: its model, projectors, encoders and adapters are taken."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.config.instantiate import build_policy, take_exported_model
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import (
    check_there,
    load_encoder_weights,
    module_digest,
    policy_digests,
    read_checkpoint,
)
from affectgpt_r1.policy.hf_export import export_policy
from helpers.configs import compose_config

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
PROCESSOR = {
    "modalities": ["video", "audio", "text"],
    "visual": "face",
    "num_frames": 4,
    "image_size": 48,
    "channel_order": "bgr",
    "num_windows": 2,
    "window_seconds": 2.0,
}


@torch.no_grad()
def logps(policy, batch):
    return policy.eval().per_token_logps(batch, policy.encode_targets(batch))


@pytest.fixture
def write(make_policy, tiny_config, tokenizer_file, make_batch, tmp_path):
    """``write(kind, **changes)``: the folder of a policy that reasons, with fusion ``mean``, and its log-probs."""

    def build(kind, **changes):
        model = {**tiny_config, "tokenizer": str(tokenizer_file), "fusion": "mean", **changes}
        policy = make_policy(
            seed=3, enable_thinking=True, **{key: one for key, one in model.items() if key != "tokenizer"}
        )
        with torch.no_grad():
            for parameter in policy.trainable_parameters().values():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
        expected = logps(policy, make_batch())
        options = {"processor": PROCESSOR, "max_completion_length": 40, "card": ""}
        export_policy(policy, model, tmp_path / kind, kind=kind, **options)
        return tmp_path / kind, expected

    return build


@pytest.fixture
def base(make_policy, tiny_config, tmp_path):
    make_policy(seed=8).language_model.save_pretrained(tmp_path / "base")
    return {**tiny_config["language_model"], "pretrained": str(tmp_path / "base")}


def config_of(folder, *overrides):
    """A run that starts from a folder, with its question."""
    config = compose_config("train", "experiment=demo/sft", "prompt=think", f"init_from={folder}", *overrides)
    config.prompt.question = json.loads((folder / "affectgpt_r1.json").read_text())["template"]["question"]
    return config


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_merged_folder_is_trained_on_as_it_was_built(write, make_batch, lora):
    folder, expected = write("merged", lora=lora)
    config = config_of(folder)
    policy = build_policy(config)
    torch.testing.assert_close(logps(policy, make_batch()), expected, rtol=0, atol=1e-4)
    assert config.model.fusion == "mean"
    trained = set(policy.trainable_parameters())
    assert {"fusion.video.projection.weight", "language_model.model.embed_tokens.weight"} <= trained
    again = config.copy()
    assert take_exported_model(again) is not None
    assert again == config


def test_fresh_adapters_above_a_merged_folder_start_as_the_folder(write, make_batch, tmp_path):
    folder, expected = write("merged", lora=LORA)
    config = config_of(folder, "model.lora={r: 2, alpha: 4, dropout: 0.0, target_modules: [o_proj]}")
    policy = build_policy(config)
    torch.testing.assert_close(logps(policy, make_batch()), expected, rtol=0, atol=1e-4)
    assert {name.split(".")[-3] for name in policy.trainable_parameters() if "lora_" in name} == {"lora_A", "lora_B"}
    # What trains from here is found again by the settings that the run stores, without init_from.
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.add_(0.01)
    state = {f"policy.{name}": one.detach() for name, one in policy.trainable_parameters().items()}
    torch.save({"state_dict": state, "digests": policy_digests(policy)}, tmp_path / "best.ckpt")
    stored = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    stored.init_from = str(tmp_path / "best.ckpt")
    found = build_policy(stored)
    torch.testing.assert_close(logps(found, make_batch()), logps(policy, make_batch()), rtol=0, atol=0)


def test_an_adapter_folder_keeps_training_its_adapters(write, base, make_batch):
    folder, expected = write("adapter", lora=LORA, language_model=base)
    config = config_of(folder)
    policy = build_policy(config)
    torch.testing.assert_close(logps(policy, make_batch()), expected, rtol=0, atol=1e-5)
    assert OmegaConf.to_container(config.model.lora) == LORA
    trained = set(policy.trainable_parameters())
    assert "language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight" in trained
    assert not any("embed_tokens" in name for name in trained)


def test_an_adapter_folder_above_another_base_is_refused(write, base, make_policy):
    folder, _ = write("adapter", lora=LORA, language_model=base)
    make_policy(seed=9).language_model.save_pretrained(base["pretrained"])
    with pytest.raises(CheckpointError, match=r"adapter does not fit the language model here"):
        build_policy(config_of(folder))


def test_encoders_come_from_an_exported_folder(write, make_policy):
    folder, _ = write("merged")
    policy = make_policy(seed=1)
    load_encoder_weights(policy.encoders, folder)
    assert module_digest(policy.encoders) == module_digest(make_policy(seed=3).encoders)


def test_a_folder_that_was_not_exported_says_so(tmp_path, write):
    with pytest.raises(CheckpointError, match=r"a folder that `affectgpt-r1 export` wrote"):
        check_there(tmp_path)
    folder, _ = write("merged")
    check_there(folder)
    with pytest.raises(CheckpointError, match="is an exported folder, which init_from takes"):
        read_checkpoint(folder)


@pytest.mark.parametrize("value", [{"_target_": "os.system"}, "${oc.env:HOME}"])
def test_settings_of_a_folder_are_data(write, value):
    folder, _ = write("merged")
    settings = json.loads((folder / "affectgpt_r1.json").read_text())
    settings["model"]["fusion"] = value
    (folder / "affectgpt_r1.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"affectgpt_r1\.json: model\.fusion"):
        build_policy(config_of(folder))
