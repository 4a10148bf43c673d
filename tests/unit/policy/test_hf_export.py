"""An exported folder loads without Lightning and generates what the policy did."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import import_module

import pytest
import torch

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.hf_export import export_policy, load_exported, read_sampling
from affectgpt_r1.types import Sampling
from helpers.forked import forget_modules, run_forked

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "down_proj"]}
GREEDY = Sampling(temperature=0.0, max_completion_length=12)


def moved(policy):
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
    return policy.eval()


def write(policy, model, folder, kind):
    processor = {"num_frames": 8, "image_size": 48}
    export_policy(policy, model, folder, kind=kind, processor=processor, max_completion_length=24, card="# Card\n")
    return folder


@pytest.fixture
def base_folder(make_policy, tmp_path):
    """The tiny language model as an ordinary pretrained folder."""
    folder = tmp_path / "base"
    make_policy().language_model.save_pretrained(folder)
    return folder


def same_tokens(policy, folder, batch):
    expected = policy.generate(batch, 1, GREEDY)
    loaded = load_exported(folder)
    found = loaded.generate(batch, 1, GREEDY)
    assert found.texts == expected.texts
    assert found.completions.ids.equal(expected.completions.ids)
    torch.testing.assert_close(found.per_token_logps, expected.per_token_logps, atol=1e-4, rtol=1e-4)
    return loaded


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_merged_folder_stands_alone(make_policy, tiny_config, make_batch, tmp_path, lora):
    policy = moved(make_policy(seed=3, lora=lora, fusion="mean"))
    expected = policy.generate(make_batch(), 1, GREEDY)
    model = {**tiny_config, "lora": lora, "fusion": "mean"}
    loaded = load_exported(write(policy, model, tmp_path / "out", "merged"))
    found = loaded.generate(make_batch(), 1, GREEDY)
    assert found.texts == expected.texts
    assert found.completions.ids.equal(expected.completions.ids)
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]


@pytest.mark.parametrize(
    "drawn", [None, Sampling(temperature=1.0, top_p=0.9, top_k=20, seed=7)], ids=["greedy", "drawn"]
)
def test_a_folder_answers_as_its_run_did(make_policy, tiny_config, tmp_path, drawn):
    folder = tmp_path / "out"
    arguments = {"processor": {"num_frames": 8}, "max_completion_length": 24, "card": "# Card\n", "drawn": drawn}
    export_policy(make_policy(), tiny_config, folder, kind="merged", **arguments)
    expected = Sampling(temperature=0.0) if drawn is None else drawn
    assert read_sampling(folder) == dataclasses.replace(expected, max_completion_length=24)


def test_an_adapter_folder_finds_its_base(make_policy, tiny_config, make_batch, tmp_path, base_folder):
    language_model = {**tiny_config["language_model"], "pretrained": str(base_folder)}
    policy = moved(make_policy(seed=4, lora=LORA, language_model=language_model))
    model = {**tiny_config, "lora": LORA, "language_model": language_model}
    folder = write(policy, model, tmp_path / "out", "adapter")
    assert not (folder / "model.safetensors").exists()
    same_tokens(policy, folder, make_batch())


def test_peft_reads_the_adapter(make_policy, tiny_config, tmp_path, base_folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    language_model = {**tiny_config["language_model"], "pretrained": str(base_folder)}
    policy = moved(make_policy(seed=4, lora=LORA, language_model=language_model))
    folder = write(policy, {**tiny_config, "lora": LORA, "language_model": language_model}, tmp_path / "out", "adapter")
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()
    ids = torch.tensor([[5, 9, 11]])
    torch.testing.assert_close(adapted(input_ids=ids).logits, policy.language_model(input_ids=ids).logits)


def test_the_folder_says_what_it_is(make_policy, tiny_config, tmp_path):
    policy = make_policy()
    folder = write(policy, tiny_config, tmp_path / "out", "merged")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["max_new_tokens"] == 24
    assert policy.turn_ids[0] in generation["eos_token_id"]
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_size"] == 48
    assert (folder / "README.md").read_text() == "# Card\n"


def test_loading_needs_no_lightning(make_policy, tiny_config, tmp_path):
    folder = write(make_policy(), tiny_config, tmp_path / "out", "merged")

    def load():
        forget_modules("affectgpt_r1", "lightning", "hydra")
        import_module("affectgpt_r1.policy.hf_export").load_exported(folder)
        assert not {"lightning", "hydra"} & sys.modules.keys()

    done = run_forked(load)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_exported_or_loaded(make_policy, tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="--kind merged"):
        write(make_policy(lora=LORA), {**tiny_config, "lora": LORA}, tmp_path / "out", "adapter")
    with pytest.raises(CheckpointError, match="not written by"):
        load_exported(tmp_path)
    folder = write(make_policy(), tiny_config, tmp_path / "whole", "merged")
    settings = json.loads((folder / "affectgpt_r1.json").read_text())
    settings["model"]["fusion"] = "none"
    (folder / "affectgpt_r1.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"fusion\.multi\.\S+ does not fit"):
        load_exported(folder)


def test_exported_weights_that_are_not_finite_are_named(make_policy, tiny_config, tmp_path):
    policy = make_policy()
    with torch.no_grad():
        next(policy.fusion.parameters())[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"out: fusion\.\S+ is NaN or infinite"):
        load_exported(write(policy, tiny_config, tmp_path / "out", "merged"))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_flipped_bit_in_the_tokenizer_is_refused(make_policy, tiny_config, tmp_path, name):
    folder = write(make_policy(), tiny_config, tmp_path / "out", "merged")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged: not the file that was exported"):
        load_exported(folder)
