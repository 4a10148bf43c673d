"""Checkpoints that fit, and those that do not: each error names what is wrong."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import (
    check_fits,
    load_encoder_weights,
    load_policy_weights,
    module_digest,
    policy_digests,
    read_checkpoint,
)
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.tokenizer import build_tokenizer


def checkpoint_of(policy, **changes):
    """What the module's ``on_save_checkpoint`` keeps."""
    state = {f"policy.{name}": parameter.detach() for name, parameter in policy.trainable_parameters().items()}
    return {"state_dict": state, "digests": policy_digests(policy), **changes}


@pytest.fixture
def save(tmp_path):
    def write(content) -> str:
        torch.save(content, tmp_path / "one.ckpt")
        return str(tmp_path / "one.ckpt")

    return write


def test_weights_come_back_bit_by_bit(make_policy, save):
    trained, fresh = make_policy(seed=0), make_policy(seed=0)
    with torch.no_grad():
        for parameter in trained.trainable_parameters().values():
            parameter.add_(0.25)
    load_policy_weights(fresh, save(checkpoint_of(trained)))
    assert module_digest(fresh) == module_digest(trained)


def test_encoders_come_back_and_nothing_else_changes(make_policy, save):
    trained, fresh = make_policy(seed=1), make_policy(seed=0)
    state = {f"policy.encoders.{name}": one for name, one in trained.encoders.state_dict().items()}
    untouched = module_digest(fresh.language_model)
    load_encoder_weights(fresh.encoders, save({"state_dict": state}))
    assert module_digest(fresh.encoders) == module_digest(trained.encoders)
    assert module_digest(fresh.language_model) == untouched


def test_a_smaller_model_names_the_weight_and_both_shapes(make_policy, tiny_config, save):
    other = make_policy(language_model={**tiny_config["language_model"], "hidden_size": 64})
    with pytest.raises(CheckpointError, match=r"another model: \S+ has shape \(\d+, 64\), here \(\d+, 128\)"):
        load_policy_weights(make_policy(), save(checkpoint_of(other)))


def test_a_model_with_fewer_layers_names_the_missing_weight(make_policy, tiny_config, save):
    other = make_policy(language_model={**tiny_config["language_model"], "num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match=r"lacks language_model\.model\.layers\.3\.\S+"):
        load_policy_weights(make_policy(), save(checkpoint_of(other)))


def test_a_model_with_more_layers_is_another_model(make_policy, tiny_config, save):
    other = make_policy(language_model={**tiny_config["language_model"], "num_hidden_layers": 5})
    with pytest.raises(CheckpointError, match=r"language_model\.model\.layers\.4\.\S+"):
        load_policy_weights(make_policy(), save(checkpoint_of(other)))


def test_full_weights_do_not_pass_for_adapters(make_policy, save):
    adapted = make_policy(lora={"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj"]})
    with pytest.raises(CheckpointError, match=r"lacks \S*lora_A"):
        load_policy_weights(adapted, save(checkpoint_of(make_policy())))


def test_another_tokenizer_is_refused(make_policy, tmp_path, save):
    other = tmp_path / "tokenizer.json"
    policy = make_policy()
    build_tokenizer(["other texts, other merges"] * 3, PromptTemplate("Which?").phrases(), 400, other)
    foreign = policy_digests(make_policy(tokenizer=str(other)))["tokenizer"]
    assert foreign != policy_digests(policy)["tokenizer"]
    content = checkpoint_of(policy, digests={**policy_digests(policy), "tokenizer": foreign})
    with pytest.raises(CheckpointError, match="does not fit the tokenizer"):
        load_policy_weights(policy, save(content))


def test_other_encoders_are_refused(make_policy, save):
    policy = make_policy()
    with torch.no_grad():
        next(policy.encoders.parameters()).add_(1e-3)
    content = checkpoint_of(policy)
    with pytest.raises(CheckpointError, match="does not fit the encoder weights"):
        load_policy_weights(make_policy(), save(content))


def test_encoders_of_another_shape_are_refused(make_policy, tiny_config, save):
    other = make_policy(video_encoder={**tiny_config["video_encoder"], "hidden_size": 32})
    state = {f"policy.encoders.{name}": one for name, one in other.encoders.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"video\.model\.\S+ has shape"):
        load_encoder_weights(make_policy().encoders, save({"state_dict": state}))


def test_a_failed_load_leaves_the_policy_as_it_was(make_policy, save):
    policy = make_policy()
    before, content = module_digest(policy), checkpoint_of(make_policy(seed=1))
    content["state_dict"].pop(sorted(content["state_dict"])[-1])
    with pytest.raises(CheckpointError):
        load_policy_weights(policy, save(content))
    assert module_digest(policy) == before


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*gone\.ckpt.*make sft"):
        read_checkpoint(tmp_path / "gone.ckpt")


def test_a_truncated_file_says_so(make_policy, save):
    path = save(checkpoint_of(make_policy()))
    for share in (0.99, 0.5, 0.001, 0.0):
        os.truncate(path, int(os.path.getsize(path) * share))
        with pytest.raises(CheckpointError, match=r"one\.ckpt cannot be read"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"name,openset\nclip,happy\n", b"\x80\x02", bytes(range(256)) * 8, b"(lp0\n.", b"\x80\x04}\x94."]
)
def test_a_file_that_is_no_checkpoint_says_so(tmp_path, content):
    (tmp_path / "one.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"one\.ckpt"):
        read_checkpoint(tmp_path / "one.ckpt")


def test_damaged_bytes_never_raise_anything_else(tmp_path, save):
    content = {"state_dict": {"policy.weight": torch.zeros(2)}, "position": [1, 2]}
    path, draw = Path(save(content)), random.Random(0)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], {"state_dict": {}}])
def test_a_file_without_the_policys_weights_says_so(tiny_policy, save, content):
    with pytest.raises(CheckpointError, match=r"state_dict|lacks"):
        load_policy_weights(tiny_policy, save(content))


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("dump", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_checkpoint_does_not_run(tmp_path, dump):
    trap = tmp_path / "trap"
    dump({"state_dict": {}, "extra": Malicious(str(trap))}, tmp_path / "one.ckpt")
    with pytest.raises(CheckpointError, match=r"one\.ckpt"):
        read_checkpoint(tmp_path / "one.ckpt")
    assert not trap.exists()


def test_digests_speak_of_frozen_parts_only(tiny_policy):
    assert set(policy_digests(tiny_policy)) == {"tokenizer", "encoder weights"}
    tiny_policy.encoders.unfreeze()
    assert set(policy_digests(tiny_policy)) == {"tokenizer"}


def test_a_checkpoint_without_digests_is_judged_by_its_shapes(tiny_policy):
    content = checkpoint_of(tiny_policy)
    del content["digests"]
    check_fits(content, tiny_policy, "here")
