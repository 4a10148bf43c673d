"""The stages against slow references, and what they log, sample and train."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.rewards.accuracy import AccuracyReward
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.advantages import group_advantages
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling

SAMPLING = Sampling(max_completion_length=10)
TRL_NAMES = {
    "loss",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/clipped_ratio",
    "completions/mean_terminated_length",
    "completions/min_terminated_length",
    "completions/max_terminated_length",
    "rewards/accuracy/mean",
    "rewards/accuracy/std",
    "rewards/format/mean",
    "rewards/format/std",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "entropy",
    "clip_ratio/low_mean",
    "clip_ratio/low_min",
    "clip_ratio/high_mean",
    "clip_ratio/high_max",
    "clip_ratio/region_mean",
    "sampling/sampling_logp_difference/mean",
    "sampling/sampling_logp_difference/max",
}


class LetterReward:
    """Share of characters that are letters: differs between random completions, where a wheel score would be 0."""

    name = "letters"

    def __call__(self, *, completions, targets) -> list[float | None]:
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon("bundled")


@pytest.fixture
def grpo(lexicon):
    def build(**changes) -> GRPOStage:
        settings = {"num_generations": 4, **changes}
        rewards = settings.pop(
            "rewards",
            WeightedRewards({"letters": LetterReward(), "format": FormatReward()}, {"letters": 1.0, "format": 0.2}),
        )
        return GRPOStage(rewards, lexicon, settings.pop("sampling", SAMPLING), **settings)

    return build


def optimizer_for(policy, lr=1e-3):
    return torch.optim.AdamW(policy.trainable_parameters().values(), lr=lr)


@pytest.mark.parametrize("enable_thinking", [False, True])
def test_sft_loss_is_the_mean_negative_log_likelihood_of_the_target_tokens(make_policy, make_batch, enable_thinking):
    policy, batch = make_policy(enable_thinking=enable_thinking), make_batch()
    total, count = 0.0, 0
    for clip in range(4):
        text = policy.template.target(batch.labels[clip], batch.reasons[clip])
        ids = policy.tokenizer.encode(text, add_special_tokens=False) + policy.turn_ids
        alone = make_batch(
            1,
            subtitles=batch.subtitles[clip : clip + 1],
            frames=batch.frames[clip : clip + 1],
            waveforms=batch.waveforms[clip : clip + 1],
        )
        prompt = policy.embed_prompts(alone).embeds
        embeds = torch.cat([prompt, policy.language_model.get_input_embeddings()(torch.tensor([ids]))], 1)
        logits = policy.language_model(inputs_embeds=embeds).logits[0]
        for position, token in enumerate(ids):
            total -= torch.log_softmax(logits[prompt.shape[1] + position - 1], -1)[token].item()
            count += 1
    output = SFTStage().training_step(policy, batch, seed=0)
    assert output.loss.item() == pytest.approx(total / count, abs=1e-4)
    validated = float(SFTStage().validation_step(policy, batch)["loss"])
    assert validated == pytest.approx(output.loss.item(), abs=1e-6)


def test_a_few_sft_steps_lower_the_loss_and_move_every_weight(tiny_policy, make_batch):
    stage, optimizer = SFTStage(), optimizer_for(tiny_policy)
    batch = tiny_policy.with_features(make_batch())
    before = {name: one.detach().clone() for name, one in tiny_policy.named_parameters()}
    losses = []
    for _ in range(15):
        loss = stage.training_step(tiny_policy, batch, seed=0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    moved = {name for name, one in tiny_policy.named_parameters() if not torch.equal(one, before[name])}
    assert moved == set(tiny_policy.trainable_parameters())


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_grpo_logs_trls_names_and_a_record_for_each_completion(tiny_policy, make_batch, lexicon, grpo, beta):
    rewards = WeightedRewards(
        {"accuracy": AccuracyReward(lexicon), "format": FormatReward()}, {"accuracy": 1.0, "format": 0.2}
    )
    stage, batch = grpo(beta=beta, rewards=rewards), make_batch()
    stage.prepare(tiny_policy)
    output = stage.training_step(tiny_policy, batch, seed=3)
    names = {name for name in output.logs if not name.startswith("answers/")}
    assert names == TRL_NAMES | {"step_without_advantage", "tokens_per_second"} | ({"kl"} if beta else set())
    assert all(math.isfinite(float(value)) for value in output.logs.values())
    assert len(output.records) == 4 * 4
    assert [record.name for record in output.records] == [name for name in batch.names for _ in range(4)]
    assert output.records[0].prompt == tiny_policy.prompts(batch)[0]
    assert output.records[8].target == "angry, nervous, worried"
    assert set(output.records[0].rewards) == {"accuracy", "format"}
    assert float(output.logs["sampling/sampling_logp_difference/max"]) < 1e-4


def test_grpo_numbers_follow_from_its_records(tiny_policy, make_batch, grpo):
    output = grpo().training_step(tiny_policy, make_batch(), seed=3)
    rewards = torch.tensor([record.reward for record in output.records]).view(4, 4)
    letters = [
        LetterReward()(completions=[parse_completion(record.completion, enable_thinking=False)], targets=[()])[0]
        for record in output.records
    ]
    torch.testing.assert_close(rewards.flatten(), torch.tensor(letters))  # no random text is well formed
    advantages = torch.tensor([record.advantage for record in output.records]).view(4, 4)
    torch.testing.assert_close(advantages, group_advantages(rewards))
    assert advantages.abs().max() > 0.5
    assert float(output.logs["reward"]) == pytest.approx(rewards.mean().item(), abs=1e-6)
    assert float(output.logs["reward_std"]) == pytest.approx(rewards.std().item(), abs=1e-6)
    assert float(output.logs["frac_reward_zero_std"]) == 0.0
    assert float(output.logs["clip_ratio/low_mean"]) == float(output.logs["clip_ratio/high_mean"]) == 0.0


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_grpo_loss_on_policy_is_minus_the_weighted_advantage(tiny_policy, make_batch, grpo, loss_type):
    batch, stage = make_batch(), grpo(loss_type=loss_type)
    output = stage.training_step(tiny_policy, batch, seed=3)
    rollout = tiny_policy.generate(batch, 4, SAMPLING, torch.Generator().manual_seed(3))
    lengths = rollout.completions.mask.sum(-1).flatten()
    advantages = torch.tensor([record.advantage for record in output.records])
    expected = {
        "grpo": -advantages.mean(),
        "bnpo": -(advantages * lengths).sum() / lengths.sum(),
        "dr_grpo": -(advantages * lengths).sum() / (16 * SAMPLING.max_completion_length),
    }[loss_type]
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_grpo_gradient_is_that_of_the_advantage_weighted_log_probs(tiny_policy, make_batch, grpo):
    """REINFORCE by hand: with one update a rollout the ratio is 1, and its gradient that of the log-prob."""
    batch = make_batch()
    output = grpo().training_step(tiny_policy, batch, seed=3)
    output.loss.backward()
    mine = {name: one.grad.clone() for name, one in tiny_policy.trainable_parameters().items()}
    tiny_policy.zero_grad()
    rollout = tiny_policy.generate(batch, 4, SAMPLING, torch.Generator().manual_seed(3))
    advantages = torch.tensor([record.advantage for record in output.records]).view(4, 4, 1)
    logps = tiny_policy.per_token_logps(batch, rollout.completions)
    lengths = rollout.completions.mask.sum(-1, keepdim=True)
    (-(advantages * logps / lengths).sum() / 16).backward()
    for name, parameter in tiny_policy.trainable_parameters().items():
        torch.testing.assert_close(mine[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("lora", [None, {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj"]}])
def test_grpo_runs_the_encoders_once_and_trains_all_that_trains(make_policy, make_batch, grpo, lora):
    policy = make_policy(lora=lora)
    calls = {"video": 0, "audio": 0}
    for name in calls:

        def count(module, inputs, output, name=name) -> None:
            calls[name] += 1

        getattr(policy.encoders, name).register_forward_hook(count)
    stage = grpo(beta=0.1)
    stage.prepare(policy)
    stage.training_step(policy, make_batch(), seed=1).loss.backward()
    assert calls == {"video": 1, "audio": 1}
    for name, parameter in policy.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
        elif "lora_A" not in name:  # adapters B start at 0, and with them the gradient of A
            assert parameter.grad.abs().max() > 0, name


def test_same_seed_same_completions(tiny_policy, make_batch, grpo):
    def completions(seed: int) -> list[str]:
        records = grpo().training_step(tiny_policy, make_batch(), seed=seed).records
        return [record.completion for record in records]

    assert completions(1) == completions(1)
    assert completions(1) != completions(2)


def test_without_beta_there_is_no_reference(tiny_policy, grpo):
    grpo(beta=0.0).prepare(tiny_policy)
    assert tiny_policy.reference_state() == {}
    grpo(beta=0.1).prepare(tiny_policy)
    assert set(tiny_policy.reference_state()) == set(tiny_policy.trainable_parameters())


def test_kl_is_zero_at_the_start_and_grows_with_the_policys_drift(tiny_policy, make_batch, grpo):
    stage, batch, optimizer = grpo(beta=0.1), make_batch(), optimizer_for(tiny_policy, lr=1e-2)
    stage.prepare(tiny_policy)
    divergences = []
    for _ in range(2):
        output = stage.training_step(tiny_policy, batch, seed=1)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        divergences.append(float(output.logs["kl"]))
    assert divergences[0] == pytest.approx(0, abs=1e-9)
    assert divergences[1] > 1e-3


def test_grpo_raises_the_reward(tiny_policy, make_batch, grpo):
    stage, optimizer = grpo(num_generations=8), optimizer_for(tiny_policy, lr=3e-3)
    batch, rewards = tiny_policy.with_features(make_batch()), []
    for seed in range(25):
        output = stage.training_step(tiny_policy, batch, seed=seed)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        rewards.append(float(output.logs["reward"]))
    assert sum(rewards[-5:]) / 5 > sum(rewards[:2]) / 2 + 0.1


def test_equal_rewards_give_no_gradient(tiny_policy, make_batch, grpo):
    constant = WeightedRewards({"format": FormatReward()}, {"format": 1.0})  # 0 for every random text
    output = grpo(rewards=constant).training_step(tiny_policy, make_batch(), seed=0)
    output.loss.backward()
    assert float(output.logs["frac_reward_zero_std"]) == 1.0
    assert all(one.grad.abs().max() == 0 for one in tiny_policy.trainable_parameters().values())


def test_clips_without_reward_give_no_gradient_and_are_left_out_of_the_mean(tiny_policy, make_batch, grpo):
    class LettersOfTheFirstClip(LetterReward):
        def __call__(self, *, completions, targets) -> list[float | None]:
            scores = super().__call__(completions=completions, targets=targets)
            return [
                score if target == ("happy", "proud") else None for score, target in zip(scores, targets, strict=True)
            ]

    rewards = WeightedRewards({"letters": LettersOfTheFirstClip()}, {"letters": 1.0})
    output = grpo(rewards=rewards).training_step(tiny_policy, make_batch(), seed=0)
    known = [record.reward for record in output.records[:4]]
    assert float(output.logs["reward"]) == pytest.approx(sum(known) / 4)
    assert all(record.advantage == 0 for record in output.records[4:])
    assert all(record.rewards == {"letters": None} for record in output.records[4:])
    assert math.isfinite(output.loss.item())
    assert float(output.logs["frac_reward_zero_std"]) == 0.75


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_generations": 1}, "num_generations=1"),
        ({"sampling": dataclasses.replace(SAMPLING, temperature=0.0)}, "temperature"),
    ],
)
def test_settings_without_gradient_are_refused(grpo, changes, key):
    with pytest.raises(ConfigError, match=key):
        grpo(**changes)


def test_a_policy_that_samples_from_another_prompt_than_it_is_scored_on_is_refused(tiny_policy, grpo):
    tiny_policy.template = dataclasses.replace(tiny_policy.template, bos_at_inference=False)
    with pytest.raises(ConfigError, match="bos_at_inference=false is for SFT"):
        grpo().prepare(tiny_policy)
