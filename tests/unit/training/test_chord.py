"""CHORD: the schedule and the mixed loss by hand and against the published formulas."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from affectgpt_r1.config.compose import instantiate_stage
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.chord import MuSchedule
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.sft import SFTStage, supervised_loss
from affectgpt_r1.types import Sampling, TokenBatch
from helpers.configs import compose_config


class LetterReward:
    """Fraction of characters that are letters: it differs between random completions."""

    name = "letters"

    def __call__(self, *, completions, targets):
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


@pytest.fixture(scope="module")
def build():
    lexicon = load_lexicon("bundled")

    def build(**changes):
        rewards = WeightedRewards(
            {"letters": LetterReward(), "format": FormatReward()}, {"letters": 1.0, "format": 0.2}
        )
        options = {"rewards": rewards, "lexicon": lexicon, "sampling": Sampling(max_completion_length=10)}
        options |= {"mu": MuSchedule(0.3, 0.0), "supervised_batch_size": 2, "num_generations": 3}
        return GRPOStage(**options | changes)

    return build


def published_mu(step, warmup, decay, peak, valley):
    """The schedule of ms-swift and Trinity-RFT, written out again."""
    if step < warmup:
        return step / warmup * peak
    if step >= warmup + decay:
        return valley
    return (peak - valley) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay)) + valley


@pytest.mark.parametrize(("warmup", "decay", "peak", "valley"), [(4, 9, 0.75, 0.15), (0, 5, 0.5, 0.02), (1, 1, 1, 0)])
def test_mu_is_the_published_schedule(warmup, decay, peak, valley):
    schedule = MuSchedule(peak, valley, warmup, decay)
    for step in range(20):
        assert schedule(step) == pytest.approx(published_mu(step, warmup, decay, peak, valley), abs=1e-12)


def test_mu_stays_at_the_peak_without_a_decay():
    assert [MuSchedule(0.2, 0.02)(step) for step in (0, 1, 999)] == [0.2] * 3
    assert [MuSchedule(0.2, 0.02, warmup_steps=2)(step) for step in (0, 1, 2, 999)] == [0.0, 0.1, 0.2, 0.2]


class ToyPolicy:
    """Two target tokens and a padded one, whose log-probs are its only parameter."""

    def __init__(self, logps):
        self.logps = torch.tensor([[logps]], requires_grad=True)

    def encode_targets(self, batch):
        return TokenBatch(torch.zeros(1, 1, 3, dtype=torch.long), torch.tensor([[[1.0, 1.0, 0.0]]]))

    def per_token_logps(self, batch, completions):
        return self.logps


@pytest.mark.parametrize("weighting", ["none", "phi"])
def test_the_supervised_loss_and_its_gradient_by_hand(weighting):
    probs = (0.5, 0.8)
    policy = ToyPolicy([math.log(probs[0]), math.log(probs[1]), math.log(0.1)])
    loss, tokens = supervised_loss(policy, None, weighting=weighting)
    loss.backward()
    phi = [p * (1 - p) if weighting == "phi" else 1.0 for p in probs]  # 0.25 and 0.16
    assert tokens.item() == 2
    assert loss.item() == pytest.approx(-sum(w * math.log(p) for w, p in zip(phi, probs, strict=True)) / 2, abs=1e-6)
    # phi has no gradient of its own: d loss / d log p = -phi / tokens.
    torch.testing.assert_close(policy.logps.grad, torch.tensor([[[-phi[0] / 2, -phi[1] / 2, 0.0]]]))


def swift_chord_loss(policy, grpo_loss, batch, mu, *, phi):
    """ms-swift's mixed loss from the log-probs of plain forward passes."""
    targets = policy.encode_targets(batch)
    per_token = -policy.per_token_logps(batch, targets)
    if phi:
        probs = torch.exp(-per_token.detach())
        per_token = per_token * (probs * (1 - probs))
    return (1 - mu) * grpo_loss + mu * (per_token * targets.mask).sum() / targets.mask.sum()


@pytest.mark.parametrize("token_weighting", ["none", "phi"])
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_loss_and_gradients_are_the_published_mix(make_policy, make_batch, build, token_weighting, engine):
    policy, stage, plain = make_policy(engine=engine), build(token_weighting=token_weighting), build(mu=None)
    for one in (stage, plain):
        one.prepare(policy)
    supervised = make_batch(2, seed=7)
    batch = make_batch(2)
    stage.global_step = 5
    output = stage.training_step(policy, dataclasses.replace(batch, supervised=supervised), seed=3)
    output.loss.backward()
    gradients = {name: param.grad.clone() for name, param in policy.trainable_parameters().items()}
    policy.zero_grad()
    grpo = plain.training_step(policy, batch, seed=3)
    expected = swift_chord_loss(policy, grpo.loss, supervised, 0.3, phi=token_weighting == "phi")
    expected.backward()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    largest = max(float(param.grad.abs().max()) for param in policy.trainable_parameters().values())
    assert largest > 1e-3
    for name, param in policy.trainable_parameters().items():
        torch.testing.assert_close(gradients[name], param.grad, atol=1e-6, rtol=1e-4)
    assert float(output.logs["mu"]) == 0.3
    assert float(output.logs["grpo_loss"]) == pytest.approx(grpo.loss.item(), abs=1e-6)
    if token_weighting == "none":
        sft = SFTStage().training_step(policy, supervised, seed=0).loss
        assert float(output.logs["sft_loss"]) == pytest.approx(sft.item(), abs=1e-6)


def test_mu_of_zero_is_grpo_alone_and_needs_no_labelled_clips(tiny_policy, make_batch, build):
    stage, plain, batch = build(mu=MuSchedule(0.5, 0.0, 0, 1)), build(mu=None), make_batch(2)
    stage.global_step = 1
    assert build(mu=MuSchedule(0.0, 0.5)).supervised_batch_size == 0
    ours, theirs = (one.training_step(tiny_policy, batch, seed=3) for one in (stage, plain))
    assert torch.equal(ours.loss, theirs.loss)
    assert "sft_loss" not in ours.logs


def test_a_batch_without_labelled_clips_is_refused(tiny_policy, make_batch, build):
    with pytest.raises(ConfigError, match="the batch has no supervised clips; use the data module's own loader"):
        build().training_step(tiny_policy, make_batch(2), seed=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_weighting": "psi"}, "stage.token_weighting=psi is unknown; choose none or phi"),
        ({"loss_normalizer": "accumulated_batch"}, "counts one loss's items; take micro_batch, or stage.mu.peak=0"),
        ({"supervised_batch_size": 0}, "stage.supervised_batch_size=0 must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(build, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_a_schedule_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"stage.mu.peak=1.5 must be between 0 and 1"):
        MuSchedule(1.5, 0.0)
    with pytest.raises(ConfigError, match=r"stage.mu.warmup_steps=-1 must be at least 0"):
        MuSchedule(0.5, 0.0, -1)


def test_the_configured_stage_takes_the_options_of_grpo():
    chosen = ("experiment=affectgpt_r1/grpo", "stage=chord", "stage.mu.peak=0.5", "stage.mu.decay_steps=100")
    config = compose_config("train", *chosen, "stage.beta=0.04")
    stage = instantiate_stage(config.stage)
    assert (stage.mu, stage.supervised_batch_size) == (MuSchedule(0.5, 0.02, 0, 100), config.data.batch_size)
    assert (config.stage.name, stage.config.beta) == ("chord", 0.04)


def test_the_demo_mixes_supervision_in_and_can_do_without():
    mixed, plain = (compose_config("train", "experiment=demo/grpo", *more) for more in ((), ("stage.mu.peak=0",)))
    stage = instantiate_stage(mixed.stage)
    assert (stage.mu, stage.supervised_batch_size) == (MuSchedule(0.9, 0.05, 0, 300), 16)
    assert (stage.mu(0), stage.mu(150), stage.mu(300)) == pytest.approx((0.9, 0.475, 0.05))
    assert (mixed.stage.name, plain.stage.name) == ("grpo", "grpo")
    alone = instantiate_stage(plain.stage)
    assert (alone.mu, alone.supervised_batch_size) == (None, 0)
