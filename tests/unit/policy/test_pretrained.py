"""The 7B configuration at toy width, from ordinary Hugging Face folders; the plan's architecture on the meta device."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.policy.checkpoint import module_digest
from affectgpt_r1.policy.hf_export import export_policy, load_exported
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling
from helpers.toy_folders import FOLDERS, build


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
    clip = hf.CLIPVisionModelWithProjection.from_pretrained(weights / FOLDERS["video_encoder"], dtype=torch.bfloat16)
    hubert = hf.HubertModel.from_pretrained(weights / FOLDERS["audio_encoder"])
    assert module_digest(clip) == module_digest(policy.encoders.video.model)
    assert module_digest(hubert) == module_digest(policy.encoders.audio.model)


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

    from affectgpt_r1.config.compose import instantiate_stage
    from affectgpt_r1.rewards.weighting import RewardScores

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=["experiment=demo/grpo", "stage.num_generations=2", "stage.mu.peak=0"])
    stage = instantiate_stage(config.stage)
    stage.rewards = lambda completions, targets: RewardScores(
        torch.arange(float(len(completions))), {"number": torch.arange(float(len(completions)))}
    )
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
def test_an_exported_policy_keeps_what_the_weights_say_of_their_encoders(toy_config, make_batch, tmp_path, kind):
    """HuBERT's convolutions stand in the weights' own configuration only, as CLIP's activation may."""
    policy, sampling = build(toy_config).eval(), Sampling(temperature=0.0, max_completion_length=8)
    batch = make_batch()
    with torch.no_grad():
        for name, one in policy.named_parameters():
            if "lora_B" in name:
                one.copy_(torch.randn_like(one) / 10)
        before = policy.encoders(batch)
    options = {"processor": {}, "max_completion_length": 8, "card": ""}
    adapter = {name: one.clone() for name, one in policy.state_dict().items() if "lora" in name}
    export_policy(policy, toy_config, tmp_path / kind, kind=kind, **options)
    loaded = load_exported(tmp_path / kind)
    with torch.no_grad():
        after = loaded.encoders(batch)
    for name, features in before.items():
        torch.testing.assert_close(after[name], features, rtol=0, atol=0)
    if kind == "adapter":
        assert all(one.equal(adapter[name]) for name, one in loaded.state_dict().items() if "lora" in name)
    assert loaded.generate(batch, 1, sampling).texts == policy.generate(batch, 1, sampling).texts


@pytest.mark.parametrize("share_prefix", [False, True])
def test_gradient_checkpointing_changes_no_gradient(toy_config, make_batch, share_prefix):
    batch, gradients = make_batch(), {}
    no_dropout = {**toy_config, "lora": {**toy_config["lora"], "dropout": 0.0}}
    for switch in (False, True):
        policy = build(no_dropout, gradient_checkpointing=switch, share_prefix=share_prefix).train()
        targets = policy.encode_targets(batch)
        (-policy.per_token_logps(batch, targets).sum()).backward()
        gradients[switch] = {name: one.grad.clone() for name, one in policy.trainable_parameters().items()}
    for name, gradient in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
