"""Modality faithfulness: the penalty by hand and in a step, and the measure at validation."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from affectgpt_r1.callbacks.modality_faithfulness import ModalityFaithfulness, masked_metrics
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.completions import parse_rollout
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.losses import faithfulness_loss
from affectgpt_r1.training.masked_modality import mask_one_each, maskable, without_modality
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.optim import OptimizerFactory
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling

LEXICON = load_lexicon("bundled")


def build(**changes):
    rewards = WeightedRewards({"format": FormatReward()}, {"format": 1.0})  # random texts: no advantage at all
    sampling = Sampling(max_completion_length=10)
    return GRPOStage(rewards, LEXICON, sampling, **{"num_generations": 3, **changes})


def k3(full, masked):
    return math.exp(masked - full) - (masked - full) - 1


def test_the_penalty_and_its_gradient_by_hand():
    full = torch.tensor([[-1.0, -2.0], [-1.0, -9.0], [-3.0, -3.0]], requires_grad=True)
    masked = torch.tensor([[-1.5, -2.0], [-4.0, -9.0], [-1.0, -1.0]], requires_grad=True)
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # the last has nothing that counts
    loss, kl = faithfulness_loss(full, masked, mask, margin=0.5)
    first, second = k3(-1.0, -1.5) / 2, k3(-1.0, -4.0)  # 0.053 and 2.05, above the margin
    assert loss.item() == pytest.approx((0.5 - first) / 2, abs=1e-6)
    assert kl.tolist()[1] == [pytest.approx(second), 0.0]
    loss.backward()
    slope = -(1 - math.exp(-0.5)) / 2 / 2  # of k3 in the full log-prob, over two tokens and two completions
    torch.testing.assert_close(full.grad, torch.tensor([[slope, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(masked.grad, -full.grad)


def test_one_modality_of_each_prompt_is_drawn_by_the_seed(make_batch):
    batch = make_batch(modalities=(("video", "audio", "text"), ("video", "text"), ("audio",), ("text", "audio")))
    draws = [mask_one_each(batch, seed) for seed in range(30)]
    assert {tuple(changed) for _, changed in draws} == {(True, True, False, True)}
    for clip in range(4):
        drawn = {masked.modalities[clip] for masked, _ in draws}
        whole = batch.modalities[clip]
        each = {tuple(kind for kind in whole if kind != left_out) for left_out in whole} if len(whole) > 1 else {whole}
        assert drawn == each
    assert mask_one_each(batch, 3)[0] == draws[3][0]
    assert maskable(batch) == ["video", "audio", "text"]
    assert without_modality(batch, "text").modalities[1:] == (("video",), ("audio",), ("audio",))
    assert maskable(make_batch(1, modalities=(("audio",),))) == []


def test_a_step_adds_the_penalty_and_its_gradient(make_policy, make_batch):
    policy, batch = make_policy(), make_batch(3, modalities=(("video", "audio", "text"), ("audio",), ("video", "text")))
    plain, stage = build(beta=0.04), build(beta=0.04, faithfulness_coef=0.7, faithfulness_margin=5.0)
    for one in (plain, stage):
        one.prepare(policy)
    with torch.no_grad():
        next(iter(policy.trainable_parameters().values())).mul_(1.1)  # away from the reference
    output = stage.training_step(policy, batch, seed=11)
    output.loss.backward()
    gradients = {name: param.grad.clone() for name, param in policy.trainable_parameters().items()}
    policy.zero_grad()
    # The same by plain passes: the completions are drawn by the same seed.
    base = plain.training_step(policy, batch, seed=11)
    completions = plain._buffer.completions
    masked, changed = mask_one_each(batch, 11)
    assert changed == [True, False, True]
    full, without = (policy.per_token_logps(one, completions, 1.0) for one in (batch, masked))
    terms = []
    for clip, group in [(clip, group) for clip in (0, 2) for group in range(3)]:
        tokens = int(completions.mask[clip, group].sum())
        difference = (without - full)[clip, group, :tokens]
        terms.append((5.0 - (difference.exp() - difference - 1).mean()).clamp(min=0.0))
    expected = base.loss + 0.7 * sum(terms) / len(terms)
    expected.backward()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert float(output.logs["faithfulness/loss"]) == pytest.approx(sum(terms).item() / len(terms), abs=1e-5)
    assert float(output.logs["policy_loss"]) == pytest.approx(base.loss.item(), abs=1e-6)
    for name, param in policy.trainable_parameters().items():
        torch.testing.assert_close(gradients[name], param.grad, atol=1e-5, rtol=1e-3)


def test_steps_of_the_penalty_alone_make_answers_need_the_modalities(make_policy, make_batch):
    policy, batch = make_policy(), make_batch(2)
    stage = build(faithfulness_coef=1.0, faithfulness_margin=0.5)
    stage.prepare(policy)
    batch = policy.with_features(batch)
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=2e-3)
    losses = []
    for _ in range(6):
        output = stage.training_step(policy, batch, seed=1)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.logs["faithfulness/loss"]))
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faithfulness_coef": -1.0}, "stage.faithfulness_coef=-1.0 must be 0 or more"),
        ({"faithfulness_margin": 0.0}, "stage.faithfulness_margin=0.0 must be above 0"),
    ],
)
def test_a_weight_or_margin_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**changes)


def test_the_measure_by_hand():
    answers = [
        (("happy",), ("happy", "joyful"), ("happy",)),  # the same clusters
        (("sad",), ("angry",), ("sad",)),
        (("sad",), ("sad",), ("angry",)),
    ]
    found = masked_metrics(answers, LEXICON)
    # F1 is 2/3 with all modalities and 1/3 without: each word is a cluster of its own, hit or not.
    assert found == {"changed": pytest.approx(1 / 3), "f1_drop": pytest.approx(1 / 3)}


class Reader:
    """Answers `happy` where the prompt has audio, `sad` where it has not."""

    enable_thinking, template = False, SimpleNamespace(kind="")

    def with_features(self, batch):
        return batch

    def generate(self, batch, num_generations, sampling):
        texts = [["<answer> happy </answer>" if "audio" in kinds else "<answer> sad </answer>"]
                 for kinds in batch.modalities]  # fmt: skip
        mask = torch.ones(len(batch), 1, 3)
        completions = SimpleNamespace(mask=mask)
        return SimpleNamespace(texts=texts, completions=completions, truncated=torch.zeros(len(batch), 1).bool())


@pytest.mark.parametrize("max_clips", [0, 2, 32])
def test_a_validation_logs_what_each_modality_is_worth(tiny_policy, make_batch, monkeypatch, max_clips):
    optimizers = OptimizerFactory(torch.optim.SGD, torch.optim.lr_scheduler.ConstantLR, weight_decay=0.0)
    sampling = Sampling(temperature=0.0)
    module = AffectModule(tiny_policy, SFTStage(), LEXICON, optimizers, answer_sampling=sampling, seed=0)
    reader, logs = Reader(), {}
    monkeypatch.setitem(module._modules, "policy", reader)
    monkeypatch.setattr(module, "log", lambda name, value: logs.setdefault(name, value))
    batch = dataclasses.replace(make_batch(3), labels=(("happy",),) * 3)
    completions = parse_rollout(reader.generate(batch, 1, sampling), batch.names, enable_thinking=False)
    callback, trainer = ModalityFaithfulness(max_clips), SimpleNamespace(sanity_checking=False)
    callback.on_validation_batch_end(trainer, module, {"completions": completions}, batch, 0)
    callback.on_validation_epoch_end(trainer, module)
    if not max_clips:
        assert logs == {}
        return
    assert logs == {
        "val/masked/audio/changed": 1.0,
        "val/masked/audio/f1_drop": 1.0,
        **{f"val/masked/{kind}/{name}": 0.0 for kind in ("text", "video") for name in ("changed", "f1_drop")},
    }
    assert callback._answers == {}
