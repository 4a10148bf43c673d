"""Adapters on a head and an embedding that share one matrix: merged, each keeps its own."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.policy.backbone import merge_lora
from affectgpt_r1.policy.hf_export import export_policy, load_exported

LAYERS = ["lm_head", "embed_tokens"]


def adapted(make_policy, tiny_config, layers, **language_model):
    lora = {"r": 4, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj", *layers]}
    language_model = {**tiny_config["language_model"], **language_model}
    policy = make_policy(lora=lora, language_model=language_model).eval()
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return policy, {**tiny_config, "lora": lora, "language_model": language_model}


def write(policy, model, folder, kind):
    export_policy(policy, model, folder, kind=kind, processor={}, max_completion_length=8, card="")
    return folder


@torch.no_grad()
def logps(policy, batch):
    return policy.per_token_logps(batch, policy.encode_targets(batch))


@pytest.mark.parametrize("layers", [["lm_head"], ["embed_tokens"], LAYERS], ids="-".join)
def test_a_merged_folder_answers_as_the_adapters_did(make_policy, tiny_config, make_batch, tmp_path, layers):
    policy, model = adapted(make_policy, tiny_config, layers)
    expected, batch = logps(policy, make_batch()), make_batch()
    loaded = load_exported(write(policy, model, tmp_path / "merged", "merged"))
    torch.testing.assert_close(logps(loaded, batch), expected, rtol=0, atol=1e-4)
    assert loaded.language_model.config.tie_word_embeddings is False
    head, inputs = loaded.language_model.lm_head.weight, loaded.language_model.get_input_embeddings().weight
    assert head is not inputs


def test_layers_that_no_adapter_touches_stay_tied(make_policy, tiny_config, make_batch, tmp_path):
    policy, model = adapted(make_policy, tiny_config, [])
    expected = logps(policy, make_batch())
    loaded = load_exported(write(policy, model, tmp_path / "merged", "merged"))
    torch.testing.assert_close(logps(loaded, make_batch()), expected, rtol=0, atol=1e-4)
    assert loaded.language_model.lm_head.weight is loaded.language_model.get_input_embeddings().weight


def test_merging_changes_one_matrix_of_the_two(make_policy, tiny_config):
    policy, _ = adapted(make_policy, tiny_config, ["lm_head"])
    before = policy.language_model.get_input_embeddings().weight.detach().clone()
    merge_lora(policy.language_model)
    assert policy.language_model.get_input_embeddings().weight.equal(before)
    assert not policy.language_model.lm_head.weight.equal(before)


def test_an_adapter_folder_keeps_an_embeddings_adapter(make_policy, tiny_config, make_batch, tmp_path):
    make_policy().language_model.save_pretrained(tmp_path / "base")
    policy, model = adapted(make_policy, tiny_config, LAYERS, pretrained=str(tmp_path / "base"))
    loaded = load_exported(write(policy, model, tmp_path / "adapter", "adapter"))
    torch.testing.assert_close(logps(loaded, make_batch()), logps(policy, make_batch()), rtol=0, atol=1e-5)
