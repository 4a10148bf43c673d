"""What is frozen is not in a checkpoint: it is compared, whatever it is."""

from __future__ import annotations

import logging

import pytest
import torch

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import check_fits, check_reference, load_policy_weights, policy_digests
from affectgpt_r1.policy.frozen_weights import base_weights, frozen_weights, weights_digest

LORA = {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


def checkpoint_of(policy):
    """What the module's ``on_save_checkpoint`` keeps."""
    state = {f"policy.{name}": parameter.detach() for name, parameter in policy.trainable_parameters().items()}
    return {"state_dict": state, "digests": policy_digests(policy)}


@pytest.fixture
def save(tmp_path):
    def write(content) -> str:
        torch.save(content, tmp_path / "one.ckpt")
        return str(tmp_path / "one.ckpt")

    return write


@pytest.fixture
def with_base(make_policy, tiny_config, tmp_path):
    """``with_base(seed)``: a policy with adapters above the weights in a folder, which ``seed`` drew."""

    def build(seed, **changes):
        folder = tmp_path / f"base-{seed}"
        if not folder.exists():
            make_policy(seed=seed).language_model.save_pretrained(folder)
        language_model = {**tiny_config["language_model"], "pretrained": str(folder), **changes}
        return make_policy(lora=LORA, language_model=language_model)

    return build


def test_another_random_base_is_refused(make_policy, save):
    same, other = make_policy(lora=LORA), make_policy(lora=LORA, seed=1)
    other.encoders.load_state_dict(same.encoders.state_dict())
    content = save(checkpoint_of(same))
    load_policy_weights(make_policy(lora=LORA), content)
    with pytest.raises(CheckpointError, match=r"does not fit the language model here.*that run's seed"):
        load_policy_weights(other, content)


def test_another_pretrained_base_is_refused(with_base, save):
    content = save(checkpoint_of(with_base(1)))
    load_policy_weights(with_base(1), content)
    with pytest.raises(CheckpointError, match=r"does not fit the language model here.*language_model\.pretrained"):
        load_policy_weights(with_base(2), content)


def test_a_frozen_projector_is_compared(make_policy, save):
    policies = [make_policy(), make_policy()]
    for policy in policies:
        policy.fusion.multi.requires_grad_(False)
    content = checkpoint_of(policies[0])
    check_fits(content, policies[1], "here")
    with torch.no_grad():
        policies[1].fusion.multi.scores.bias[1] += 1e-3
    with pytest.raises(CheckpointError, match="does not fit the fusion here"):
        load_policy_weights(policies[1], save(content))


def test_one_changed_value_changes_the_digest(make_policy):
    weights = {name: one.detach().clone() for name, one in base_weights(make_policy().language_model).items()}
    before = weights_digest(weights)
    name = max(weights, key=lambda name: weights[name].numel())
    place = weights[name].view(-1)
    assert len(place) > 4096  # so that most values are not read one by one
    place[1] = torch.nextafter(place[1], torch.tensor(9.0))
    assert weights_digest(weights) != before


def test_the_digest_does_not_depend_on_adapters_or_what_lies_around_a_tensor(make_policy):
    plain, adapted = make_policy(), make_policy(lora=LORA)
    base = base_weights(plain.language_model)
    assert weights_digest(frozen_weights(adapted.language_model)) == weights_digest(base)
    odd = torch.arange(11, dtype=torch.float32)[1:]  # begins in the middle of a word, and ends there
    assert weights_digest({"one": odd}) == weights_digest({"one": odd.clone()})


def test_a_base_in_another_type_is_compared_in_the_type_of_training(with_base, save):
    content = save(checkpoint_of(with_base(1, dtype="bfloat16")))
    load_policy_weights(with_base(1), content)
    with pytest.raises(CheckpointError, match=r"does not fit the language model"):
        load_policy_weights(with_base(2), content)
    content = save(checkpoint_of(with_base(1)))
    with pytest.raises(CheckpointError, match=r"was float32 and is bfloat16 here.*dtype=float32"):
        load_policy_weights(with_base(1, dtype="bfloat16"), content)


def test_a_checkpoint_from_before_is_taken_with_one_warning(make_policy, save, caplog):
    policy = make_policy(lora=LORA)
    content = checkpoint_of(policy)
    del content["digests"]["language model"]
    with caplog.at_level(logging.WARNING):
        load_policy_weights(policy, save(content))
    assert len(caplog.records) == 1
    assert "which frozen language model" in caplog.text


def test_a_reference_of_another_shape_is_refused(make_policy):
    policy = make_policy(lora=LORA)
    policy.snapshot_reference()
    state = policy.reference_state()
    check_reference(state, policy, "here")
    check_reference({}, policy, "here")
    with pytest.raises(CheckpointError, match=r"the reference in here .* lacks \S*lora"):
        check_reference({name: one for name, one in state.items() if "lora_A" not in name}, policy, "here")
