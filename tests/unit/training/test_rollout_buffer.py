"""The rollout buffer: what its steps see, what a checkpoint keeps of it, and groups that are resampled or filtered."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import RewardScores, WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.rollout_buffer import RolloutBuffer, select_clips
from affectgpt_r1.types import Sampling

SAMPLING = Sampling(max_completion_length=6)


class LetterReward:
    """Share of letters, but always 1 for the clips in ``equal`` until they have been asked ``patience`` times."""

    name = "letters"

    def __init__(self, equal=(), patience=100):
        self.equal, self.patience, self.calls = equal, patience, 0

    def __call__(self, *, completions, targets):
        self.calls += 1
        return [
            1.0
            if one.clip in self.equal and self.calls <= self.patience
            else sum(map(str.isalpha, one.text)) / max(1, len(one.text))
            for one in completions
        ]


def grpo(reward=None, sampling=SAMPLING, **options):
    rewards = WeightedRewards({"letters": reward or LetterReward()}, {"letters": 1.0})
    return GRPOStage(rewards, load_lexicon("bundled"), sampling, **{"num_generations": 3, **options})


def visits(stage, policy, batch, number, seed=7):
    """Loss and records of ``number`` training steps of one generation."""
    empty = select_clips(batch, [])
    return [stage.training_step(policy, empty if visit else batch, seed=seed) for visit in range(number)]


def test_steps_take_the_clips_in_turn_and_again(tiny_policy, make_batch):
    batch = make_batch()
    outputs = visits(grpo(steps_per_generation=2, num_iterations=2), tiny_policy, batch, 4)
    names = [[record.name for record in output.records[::3]] for output in outputs]
    assert names == [["clip_0", "clip_1"], ["clip_2", "clip_3"]] * 2
    for first, second in zip(outputs[:2], outputs[2:], strict=True):
        assert first.loss.item() == second.loss.item()  # no optimizer step between them
        assert first.logs["reward"] == second.logs["reward"]
    full = grpo().training_step(tiny_policy, batch, seed=7)
    assert [one.completion for one in full.records] == [one.completion for out in outputs[:2] for one in out.records]


def test_later_passes_measure_the_ratio_to_the_sampling_policy(tiny_policy, make_batch):
    stage, batch = grpo(num_iterations=2, loss_type="grpo"), make_batch()
    first = stage.training_step(tiny_policy, batch, seed=7)
    assert float(first.logs["sampling/sampling_logp_difference/max"]) < 1e-4
    first.loss.backward()
    with torch.no_grad():
        for parameter in tiny_policy.trainable_parameters().values():
            parameter -= 0.05 * parameter.grad
    second = stage.training_step(tiny_policy, select_clips(batch, []), seed=8)
    assert float(second.logs["sampling/sampling_logp_difference/max"]) > 1e-2
    assert second.loss.item() < first.loss.item()


def test_a_used_up_buffer_and_no_clips_is_refused(tiny_policy, make_batch):
    stage, batch = grpo(), make_batch(2)
    with pytest.raises(ConfigError, match="used up"):
        visits(stage, tiny_policy, batch, 2)
    with pytest.raises(ConfigError, match="used up"):
        grpo().training_step(tiny_policy, select_clips(batch, []), seed=0)


def test_a_buffer_survives_a_checkpoint_bit_by_bit(tiny_policy, make_batch, tmp_path):
    options = {"steps_per_generation": 2, "num_iterations": 2, "beta": 0.1}
    stage, batch = grpo(**options), make_batch()
    stage.prepare(tiny_policy)
    visits(stage, tiny_policy, batch, 3)
    torch.save(stage.buffer_state(), tmp_path / "state.pt")
    other = grpo(**options)
    other.load_buffer_state(torch.load(tmp_path / "state.pt", weights_only=True))
    empty = select_clips(batch, [])
    expected, found = (one.training_step(tiny_policy, empty, seed=1) for one in (stage, other))
    assert found.loss.item() == expected.loss.item()
    assert found.records == expected.records
    assert found.logs["reward"] == expected.logs["reward"]
    assert stage.buffer_state() == other.buffer_state() == {}  # used up


def test_a_buffer_of_an_older_checkpoint_is_read(tiny_policy, make_batch):
    stage = grpo(steps_per_generation=2)
    visits(stage, tiny_policy, make_batch(), 1)
    state = stage.buffer_state()["buffer"]
    older = {**state, "batch": {**state["batch"], "skipped": ()}, "loss_mask": state["completion_mask"]}
    del older["completion_mask"], older["batch"]["unreadable"]
    restored = RolloutBuffer.from_state(older, torch.device("cpu"))
    assert restored.completion_mask.equal(state["completion_mask"])
    assert restored.batch.unreadable == ()


def test_a_buffer_without_a_reference_gets_one_when_beta_is_raised(tiny_policy, make_batch):
    """As where a run with ``beta=0`` was cut in mid-buffer and is resumed with a KL term."""
    tiny_policy.snapshot_reference()
    batch, empty = make_batch(2), select_clips(make_batch(2), [])
    plain, full = (grpo(num_iterations=2, beta=beta) for beta in (0.0, 0.1))
    for stage in (plain, full):
        stage.training_step(tiny_policy, batch, seed=7)
    resumed = grpo(num_iterations=2, beta=0.1)
    resumed.load_buffer_state(plain.buffer_state())
    with torch.no_grad():
        for parameter in tiny_policy.trainable_parameters().values():
            parameter.mul_(1.02)
    expected, actual = (stage.training_step(tiny_policy, empty, seed=8) for stage in (full, resumed))
    assert float(expected.logs["kl"]) > 1e-5
    assert float(actual.logs["kl"]) == float(expected.logs["kl"])
    assert actual.loss.item() == expected.loss.item()


def test_zero_std_groups_are_resampled(tiny_policy, make_batch):
    batch = make_batch()
    plain = grpo(LetterReward()).training_step(tiny_policy, batch, seed=7)
    reward = LetterReward(equal=("clip_1",), patience=2)
    output = grpo(reward, max_resamples=3).training_step(tiny_policy, batch, seed=7)
    assert reward.calls == 3
    assert float(output.logs["groups/resampled"]) == 2.0
    assert float(output.logs["groups/filtered"]) == float(output.logs["frac_reward_zero_std"]) == 0.0
    texts = [[one.completion for one in out.records] for out in (plain, output)]
    assert texts[0][:3] + texts[0][6:] == texts[1][:3] + texts[1][6:]
    assert texts[0][3:6] != texts[1][3:6]
    assert [record.name for record in output.records] == [name for name in batch.names for _ in range(3)]
    assert any(record.advantage for record in output.records[3:6])


@pytest.mark.parametrize(
    ("options", "prefills"), [({}, 1), ({"max_resamples": 1}, 2), ({"steps_per_generation": 2}, 5)]
)
def test_a_rollouts_prefill_is_kept_only_for_an_update_of_the_same_clips(
    tiny_policy, make_batch, monkeypatch, options, prefills
):
    """Prompts are embedded for the rollout, for resampled groups, and for steps that have part of the clips.

    Each of these is passed twice: for the old log-probs, and for the update.
    """
    if not tiny_policy.engine.reuses_prefill:
        pytest.skip("this engine keeps no prefill")
    embedded, embed = [], tiny_policy.embed_prompts
    monkeypatch.setattr(tiny_policy, "embed_prompts", lambda *one, **named: embedded.append(1) or embed(*one, **named))
    tiny_policy.train()
    visits(
        grpo(LetterReward(equal=("clip_1",)), **options),
        tiny_policy,
        make_batch(),
        options.get("steps_per_generation", 1),
    )
    assert len(embedded) == prefills


@pytest.mark.parametrize("steps", [1, 2])
def test_prompts_of_more_clips_than_a_step_stay_out_of_the_graph(tiny_policy, make_batch, monkeypatch, steps):
    kept, generate = [], tiny_policy.generate

    def record(*given, **options):
        rollout = generate(*given, **options)
        kept.append(rollout.prefix_cache is not None)
        return rollout

    monkeypatch.setattr(tiny_policy, "generate", record)
    visits(grpo(steps_per_generation=steps), tiny_policy.train(), make_batch(), 1)
    assert kept == [steps == 1 and tiny_policy.engine.reuses_prefill]


@pytest.mark.parametrize("leave", [False, True])
def test_rewards_move_to_the_policys_device_before_processes_gather_them(leave):
    stage = grpo(mask_truncated_completions=True, truncated_leave_baseline=leave)
    rewards = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 1.0])
    scores, truncated = RewardScores(rewards, {"letters": rewards}), torch.zeros(2, 3, dtype=torch.bool, device="meta")
    assert [tensor.device.type for tensor in stage._grouped(scores, truncated)] == ["meta", "meta"]


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])
def test_groups_that_stay_equal_are_filtered_and_counted(tiny_policy, make_batch, loss_type):
    """Neither their KL nor their tokens count: the loss is that of the other clips alone."""
    batch = make_batch()
    options = {"max_resamples": 1, "loss_type": loss_type, "beta": 0.1}
    stage = grpo(LetterReward(equal=("clip_3",)), **options)
    stage.prepare(tiny_policy)
    with torch.no_grad():
        for parameter in tiny_policy.trainable_parameters().values():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    output = stage.training_step(tiny_policy, batch, seed=7)
    assert float(output.logs["groups/filtered"]) == float(output.logs["groups/resampled"]) == 1.0
    assert float(output.logs["frac_reward_zero_std"]) == 0.25
    buffer = stage._buffer
    assert buffer.completion_mask[3].sum() == 0
    assert buffer.completion_mask[:3].equal(buffer.completions.mask[:3])
    assert buffer.tokens_per_step == buffer.completion_mask.sum()


def test_a_step_without_advantage_is_counted_and_said(tiny_policy, make_batch, caplog):
    batch = make_batch(2)
    output = grpo(LetterReward(equal=batch.names)).training_step(tiny_policy, batch, seed=7)
    assert float(output.logs["step_without_advantage"]) == 1.0
    assert "has no advantage (clip_0, clip_1)" in caplog.text


def test_truncated_completions_leave_the_loss_and_by_switch_the_baseline(tiny_policy, make_batch):
    sampling = dataclasses.replace(SAMPLING, max_completion_length=40, temperature=1.5)
    outputs = {}
    for leave in (False, True):
        stage = grpo(
            sampling=sampling, num_generations=8, mask_truncated_completions=True, truncated_leave_baseline=leave
        )
        outputs[leave] = stage.training_step(tiny_policy, make_batch(), seed=11).records
        buffer = stage._buffer
        truncated = (buffer.completions.mask.sum(-1) == 40) & (buffer.completion_mask.sum(-1) == 0)
        assert 2 < truncated.sum() < 30
        assert buffer.completion_mask[~truncated].equal(buffer.completions.mask[~truncated])
        rewards = torch.tensor([record.reward for record in outputs[leave]]).view(4, 8)
        for group in range(4):
            kept = rewards[group][~truncated[group]] if leave else rewards[group]
            deviation = kept.std() if len(kept) > 1 else torch.zeros(())
            expected = (rewards[group] - kept.mean()) / (deviation + 1e-4)
            expected = expected.masked_fill(truncated[group], 0.0) if leave else expected
            torch.testing.assert_close(buffer.advantages[group], expected.nan_to_num(), atol=1e-4, rtol=1e-4)


def test_format_and_letters_normalised_one_by_one(tiny_policy, make_batch):
    rewards = WeightedRewards({"letters": LetterReward(), "format": FormatReward()}, {"letters": 1.0, "format": 9.0})
    stage = GRPOStage(
        rewards,
        load_lexicon("bundled"),
        SAMPLING,
        num_generations=3,
        multi_objective_aggregation="normalize_then_sum",
    )
    records = stage.training_step(tiny_policy, make_batch(), seed=7).records  # no random text is well formed
    letters = torch.tensor([record.rewards["letters"] for record in records]).view(4, 3)
    z = (letters - letters.mean(1, keepdim=True)) / (letters.std(1, keepdim=True) + 1e-4)
    expected = (z - z.mean()) / (z.std() + 1e-4)
    found = torch.tensor([record.advantage for record in records]).view(4, 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_entropy_bonus_spreads_the_distribution(tiny_policy, make_batch):
    batch, entropies = make_batch(2), []
    stage = grpo(LetterReward(equal=batch.names), entropy_coef=1.0)  # no advantage: the bonus alone
    optimizer = torch.optim.SGD(tiny_policy.trainable_parameters().values(), lr=0.1)
    for _ in range(4):
        output = stage.training_step(tiny_policy, batch, seed=7)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        entropies.append(float(output.logs["entropy"]))
    assert entropies[-1] > entropies[0] + 0.01
