"""The 7B configuration at toy width, from ordinary Hugging Face folders; the plan's architecture on the meta device."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import shutil
import socket
import ssl
import urllib.error
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.config import CONFIGS
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy import pretrained
from affectgpt_r1.policy.build import build_policy
from affectgpt_r1.policy.checkpoint import module_digest
from affectgpt_r1.policy.export import export_policy, load_exported
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.stages.sft import SFTStage
from affectgpt_r1.types import Sampling

TOY = {
    "language_model": {
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "video_tower": {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 14,
        "projection_dim": 16,
    },
    "audio_tower": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2},
}
FOLDERS = {
    "language_model": "Qwen2.5-7B-Instruct",
    "video_tower": "clip-vit-large-patch14",
    "audio_tower": "chinese-hubert-large",
}
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


def published_config(weights: Path) -> dict:
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / "affectgpt_7b.yaml"), resolve=False)
    del config["_target_"]
    return {**config, "weights": str(weights)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tokenizer_file) -> Path:
    """CLIP, HuBERT and Qwen2 of toy width in folders named as on the hub, as ``save_pretrained`` writes them."""
    import transformers as hf

    folder = tmp_path_factory.mktemp("pretrained")
    published = published_config(folder)
    torch.manual_seed(3)
    hubert = {key: published["audio_tower"][key] for key in ("conv_bias", "feat_extract_norm", "do_stable_layer_norm")}
    models = {
        "language_model": hf.Qwen2ForCausalLM(hf.Qwen2Config(**TOY["language_model"])),
        "video_tower": hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**TOY["video_tower"])),
        "audio_tower": hf.HubertModel(hf.HubertConfig(**TOY["audio_tower"], **hubert, **CONVOLUTIONS)),
    }
    for part, model in models.items():
        model.save_pretrained(folder / FOLDERS[part])
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(folder / FOLDERS["language_model"])
    return folder


@pytest.fixture
def toy_config(weights) -> dict:
    """``configs/model/affectgpt_7b.yaml`` with narrower parts, nothing else."""
    config = published_config(weights)
    for part, widths in TOY.items():
        config[part].update(widths)
    return config


def build(config, seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_policy(**{**config, **changes}, template=PromptTemplate("What does the character feel?"))


def test_the_weights_are_those_of_the_folders(toy_config, weights):
    import transformers as hf

    policy = build(toy_config)
    saved = hf.Qwen2ForCausalLM.from_pretrained(weights / FOLDERS["language_model"], dtype=torch.bfloat16).state_dict()
    loaded = policy.language_model.state_dict()
    for name, tensor in saved.items():
        assert tensor.equal(
            loaded[
                name
                if name in loaded
                else name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
            ]
        ), name
    clip = hf.CLIPVisionModelWithProjection.from_pretrained(weights / FOLDERS["video_tower"], dtype=torch.bfloat16)
    hubert = hf.HubertModel.from_pretrained(weights / FOLDERS["audio_tower"])
    assert module_digest(clip) == module_digest(policy.towers.video.model)
    assert module_digest(hubert) == module_digest(policy.towers.audio.model)


def test_adapters_train_in_float32_beside_a_frozen_bfloat16_model(toy_config):
    policy = build(toy_config)
    names = set(policy.trainable_parameters())
    assert {name.split(".")[0] for name in names} == {"language_model", "fusion"}
    assert {name.split(".")[-2] for name in names if "lora" in name} == {"default"}
    adapted = {name.split(".lora_")[0].split(".")[-1] for name in names if "lora" in name}
    assert adapted == set(toy_config["lora"]["target_modules"])
    assert {one.dtype for one in policy.trainable_parameters().values()} == {torch.float32}
    assert policy.language_model.model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.bfloat16


def step(policy, loss):
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=1e-2, weight_decay=0.0)
    loss.backward()
    optimizer.step()


@pytest.fixture
def grpo_stage():
    """``stage=grpo`` with a reward that differs within every group, whatever is said."""
    from hydra import compose, initialize_config_dir

    from affectgpt_r1.config import instantiate_stage
    from affectgpt_r1.rewards.weighting import RewardScores

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=["experiment=grpo", "stage.num_generations=2"])
    stage = instantiate_stage(config.stage)
    stage.rewards = lambda completions, targets: RewardScores(torch.arange(float(len(completions))), {})
    return stage


def test_sft_and_grpo_move_all_that_trains_and_nothing_else(toy_config, make_batch, grpo_stage):
    policy, batch = build(toy_config), make_batch()
    frozen = {name: one.detach().clone() for name, one in policy.named_parameters() if not one.requires_grad}
    stages = {
        "sft": lambda: SFTStage().training_step(policy.train(), batch, seed=0).loss,
        "grpo": lambda: grpo_stage.training_step(policy.train(), batch, seed=0).loss,
    }
    for loss in (stages["sft"], stages["sft"], stages["grpo"]):  # lora_A has no gradient until lora_B has moved
        before = {name: one.detach().clone() for name, one in policy.trainable_parameters().items()}
        policy.zero_grad()
        step(policy, loss())
        still = [name for name, one in policy.trainable_parameters().items() if one.equal(before[name])]
        allowed = "lora_A" if loss is stages["sft"] else "nothing"
        assert [name for name in still if allowed not in name] == []
    assert [name for name, one in policy.named_parameters() if name in frozen and not one.equal(frozen[name])] == []


@pytest.mark.parametrize("num_clips", [1, 3])
def test_groups_are_sampled_of_one_clip_as_of_several(toy_config, make_batch, num_clips):
    """Query heads share key heads here, as in Qwen2.5-7B; R1-Omni draws for one clip at a time."""
    whole = {**toy_config["language_model"], "dtype": "float32"}
    policy, batch = build({**toy_config, "language_model": whole}).eval(), make_batch(num_clips)
    rollout = policy.generate(batch, 4, Sampling(max_completion_length=6), torch.Generator().manual_seed(1))
    assert rollout.completions.ids.shape[:2] == (num_clips, 4)
    with torch.no_grad():
        scored = policy.per_token_logps(batch, rollout.completions)
    torch.testing.assert_close(scored, rollout.per_token_logps, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_an_exported_policy_keeps_what_the_weights_say_of_their_towers(toy_config, make_batch, tmp_path, kind):
    """HuBERT's convolutions stand in the weights' own configuration only, as CLIP's activation may."""
    policy, sampling = build(toy_config).eval(), Sampling(temperature=0.0, max_completion_length=8)
    batch = make_batch()
    with torch.no_grad():
        for name, one in policy.named_parameters():
            if "lora_B" in name:
                one.copy_(torch.randn_like(one) / 10)
        before = policy.towers(batch)
    options = {"processor": {}, "max_completion_length": 8, "card": ""}
    adapter = {name: one.clone() for name, one in policy.state_dict().items() if "lora" in name}
    export_policy(policy, toy_config, tmp_path / kind, kind=kind, **options)
    loaded = load_exported(tmp_path / kind)
    with torch.no_grad():
        after = loaded.towers(batch)
    for name, features in before.items():
        torch.testing.assert_close(after[name], features, rtol=0, atol=0)
    if kind == "adapter":
        assert all(one.equal(adapter[name]) for name, one in loaded.state_dict().items() if "lora" in name)
    assert loaded.generate(batch, 1, sampling).texts == policy.generate(batch, 1, sampling).texts


@pytest.mark.parametrize("share_prompt", [False, True])
def test_gradient_checkpointing_changes_no_gradient(toy_config, make_batch, share_prompt):
    batch, gradients = make_batch(), {}
    no_dropout = {**toy_config, "lora": {**toy_config["lora"], "dropout": 0.0}}
    for switch in (False, True):
        policy = build(no_dropout, gradient_checkpointing=switch, share_prompt=share_prompt).train()
        targets = policy.encode_targets(batch)
        (-policy.per_token_logps(batch, targets).sum()).backward()
        gradients[switch] = {name: one.grad.clone() for name, one in policy.trainable_parameters().items()}
    for name, gradient in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture
def requests_to_hub(monkeypatch):
    """Requests that transformers makes of a hub that does not answer."""
    from huggingface_hub import file_download

    made = []

    def refuse(*arguments, **_):
        made.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(pretrained, "hub_answers", lambda endpoint: False)
    monkeypatch.setattr(file_download, "get_hf_file_metadata", refuse)
    return made


def test_without_weights_the_folder_to_fill_is_named(toy_config, tmp_path, requests_to_hub, weights):
    elsewhere = {**toy_config, "weights": str(tmp_path), "tokenizer": str(weights / FOLDERS["language_model"])}
    with pytest.raises(ConfigError, match=rf"video_tower: openai/\S+ cannot.*Fill {tmp_path}/clip-vit-large-patch14"):
        build(elsewhere)
    for part in ("tokenizer", "language_model"):
        folder = shutil.copytree(weights, tmp_path / part, ignore=shutil.ignore_patterns("Qwen*"))
        named = {"tokenizer": elsewhere["tokenizer"]} if part == "language_model" else {}
        with pytest.raises(ConfigError, match=rf"{part}: Qwen/\S+ cannot.*Fill {folder}/Qwen2\.5-7B-Instruct with"):
            build({**toy_config, "weights": str(folder), **named})
    assert requests_to_hub == []


def test_the_wheels_model_is_made_by_its_command(toy_config, tmp_path, requests_to_hub):
    with pytest.raises(ConfigError, match=r"Fill \S+/SmolLM2-135M-Instruct by `affectgpt-r1 convert-weights smol`"):
        build({**toy_config, "weights": str(tmp_path), "tokenizer": "SmolLM2-135M-Instruct"})


@pytest.mark.parametrize(
    ("outcome", "answers"),
    [
        (None, True),
        (urllib.error.HTTPError("", 401, "", {}, None), True),
        (urllib.error.URLError(ssl.SSLCertVerificationError("unknown issuer")), True),
        (urllib.error.URLError(socket.gaierror("no such name")), False),
        (TimeoutError(), False),
    ],
)
def test_any_answer_of_the_hub_counts(monkeypatch, outcome, answers):
    asked = []

    @contextlib.contextmanager
    def urlopen(request, timeout):
        asked.append((request.full_url, request.get_method(), timeout))
        if outcome is not None:
            raise outcome
        yield

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    pretrained.hub_answers.cache_clear()
    try:
        assert [pretrained.hub_answers("https://hub.test") for _ in range(2)] == [answers] * 2
    finally:
        pretrained.hub_answers.cache_clear()
    assert asked == [("https://hub.test", "HEAD", 5.0)]


def test_pickled_weights_are_not_loaded(toy_config, weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "pretrained")
    hubert = folder / FOLDERS["audio_tower"]
    (hubert / "model.safetensors").unlink()
    (hubert / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ConfigError, match=r"audio_tower: .*convert-weights"):
        build({**toy_config, "weights": str(folder)})


def test_incomplete_weights_are_refused(toy_config, weights, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(weights, tmp_path / "pretrained")
    file = folder / FOLDERS["language_model"] / "model.safetensors"
    state = load_file(file)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, such as model\.layers\.1\.mlp\.up_proj"):
        build({**toy_config, "weights": str(folder)})


def test_weights_of_another_architecture_are_refused(toy_config):
    other = copy.deepcopy(toy_config)
    other["language_model"]["num_key_value_heads"] = 4
    with pytest.raises(ConfigError, match=r"language_model\.num_key_value_heads=4, but .* 2"):
        build(other)


def test_code_that_comes_with_weights_does_not_run(toy_config, weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "pretrained")
    file = folder / FOLDERS["language_model"] / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModelForCausalLM": "evil.Model"}}), "utf-8"
    )
    (file.parent / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nModel = None\n", "utf-8")
    build({**toy_config, "weights": str(folder)})
    assert not (tmp_path / "ran").exists()
