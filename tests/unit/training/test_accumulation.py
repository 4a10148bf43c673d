"""Accumulated gradients do not depend on how the clips of an optimizer step are split into micro-batches."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.accumulation import AccumulatedStep
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.log_values import pooled
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.training.sanity_checks import divide_gradients
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import LogValue, Rollout, Sampling, StageOutput, TokenBatch
from helpers.precisions import cast, precision

SPLITS = ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]], [[0, 1, 2], [3]])
SAMPLING = Sampling(max_completion_length=12, temperature=1.5)
LENGTHS = torch.tensor([[4, 1, 4, 2], [9, 12, 7, 9], [6, 2, 1, 3], [3, 3, 5, 1]])


class LetterReward:
    name = "letters"

    def __call__(self, *, completions, targets):
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


def accumulate(policy, stage, batch, split, *, empty_batches=0):
    """Gradients and logs of one optimizer step, as the module accumulates them.

    Args:
        empty_batches: How many visit the rest of the rollout buffer after each micro-batch with clips.
    """
    policy.zero_grad()
    step, empty = AccumulatedStep(), select_clips(batch, [])
    for clips in split:
        for micro_batch in [select_clips(batch, clips), *[empty] * empty_batches]:
            output = stage.training_step(policy, micro_batch, seed=0)
            num_items = float(output.num_items)
            (output.loss * num_items).backward()
            step.add(output.logs, num_items, repeated=() if len(micro_batch) else output.generation_logs)
    divide_gradients(policy.parameters(), step.num_items)
    gradients = {name: one.grad.clone() for name, one in policy.named_parameters() if one.grad is not None}
    return gradients, {name: float(value) for name, value in step.logs.items()}


def distance(found, expected) -> float:
    """Norm of the difference over the norm."""
    differences = torch.stack([(found[name] - gradient).norm() for name, gradient in expected.items()])
    return (differences.norm() / torch.stack([one.norm() for one in expected.values()]).norm()).item()


@pytest.fixture
def exact(tiny_policy, make_batch):
    """A policy and clips, in double precision and without dropout, and four completions of each clip."""
    policy, clips = tiny_policy.eval(), tiny_policy.with_features(make_batch())
    drawn = policy.generate(clips, 4, SAMPLING, torch.Generator().manual_seed(3))
    with precision(torch.float64):
        yield *cast(policy, clips, torch.float64), drawn


@pytest.fixture
def grpo(exact, monkeypatch):
    """``grpo(**options)``: a stage and clips whose completions are recorded and unequally long."""
    policy, clips, (tokens, logps, texts, *_) = exact
    mask = tokens.mask * (torch.arange(tokens.mask.shape[-1]) < LENGTHS.unsqueeze(-1))
    truncated = torch.zeros(4, 4, dtype=torch.bool)
    truncated[2] = True  # with masked truncated completions a full clip has no token in the loss

    def recorded(batch, num_generations, sampling, generator=None):
        rows = [int(name.removeprefix("clip_")) for name in batch.names]
        chosen = TokenBatch(tokens.ids[rows], mask[rows])
        return Rollout(chosen, logps[rows], [texts[row] for row in rows], truncated[rows])

    monkeypatch.setattr(policy, "generate", recorded)
    rewards = WeightedRewards({"letters": LetterReward()}, {"letters": 1.0})
    return lambda **options: (
        policy,
        GRPOStage(rewards, load_lexicon("bundled"), SAMPLING, num_generations=4, **options),
        clips,
    )


def test_sft_weighs_tokens(exact):
    policy, clips, _ = exact
    stage = SFTStage()
    full, logs = accumulate(policy, stage, clips, SPLITS[0])
    for split in SPLITS[1:]:
        gradients, found = accumulate(policy, stage, clips, split)
        assert distance(gradients, full) < 1e-9
        assert found["loss"] == pytest.approx(logs["loss"], rel=1e-6)
    losses = [
        float(stage.training_step(policy, select_clips(clips, [clip]), seed=0).loss.detach()) for clip in range(4)
    ]
    assert abs(sum(losses) / 4 / logs["loss"] - 1) > 1e-3  # a mean of means is another number


@pytest.mark.parametrize(
    "options",
    [
        *({"loss_type": one} for one in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")),
        {"loss_type": "bnpo", "mask_truncated_completions": True},
        {"loss_type": "dapo", "mask_truncated_completions": True, "entropy_coef": 0.1},
        {"loss_type": "grpo", "beta": 0.04, "importance_sampling_level": "sequence"},
    ],
    ids=str,
)
def test_grpo_weighs_what_its_loss_counts(grpo, options):
    policy, stage, clips = grpo(loss_normalizer="accumulated_batch", **options)
    stage.prepare(policy)
    full, logs = accumulate(policy, stage, clips, SPLITS[0])
    compared = logs.keys() - {"tokens_per_second", "answers/answer_entropy"}
    for split in SPLITS[1:]:
        gradients, found = accumulate(policy, stage, clips, split)
        assert distance(gradients, full) < 1e-9, split
        assert found.keys() == logs.keys()
        for name in compared:
            assert found[name] == pytest.approx(logs[name], abs=1e-6), (split, name)


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo", "cispo"])
def test_trls_losses_weigh_micro_batches_unless_asked(grpo, loss_type):
    policy, stage, clips = grpo(loss_type=loss_type)
    full, _ = accumulate(policy, stage, clips, SPLITS[0])
    split, _ = accumulate(policy, stage, clips, SPLITS[2])
    assert distance(split, full) > 1e-2
    alone = [accumulate(policy, stage, clips, [[clip]])[0] for clip in range(4)]
    mean = {name: sum(one[name] for one in alone) / 4 for name in full}
    assert distance(split, mean) < 1e-9


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_a_generation_may_be_larger_than_a_micro_batch(grpo, loss_type):
    """Off-policy by construction, as the buffer's steps are; so the full is one of two passes."""
    options = {"loss_type": loss_type, "loss_normalizer": "accumulated_batch"}
    policy, stage, clips = grpo(num_iterations=2, **options)
    full, logs = accumulate(policy, stage, clips, [[0, 1, 2, 3]], empty_batches=1)
    policy, stage, clips = grpo(num_iterations=2, steps_per_generation=4, **options)
    gradients, found = accumulate(policy, stage, clips, [[0, 1, 2, 3]], empty_batches=7)
    assert distance(gradients, full) < 1e-9
    for name in ("reward", "reward_std", "rewards/letters/std", "completions/mean_length"):
        assert found[name] == pytest.approx(logs[name], abs=1e-9)  # of eight visits, the generation counts once


def test_a_rollout_that_an_optimizer_step_uses_up_is_on_policy(grpo, monkeypatch, caplog):
    options = {"loss_type": "dapo", "loss_normalizer": "accumulated_batch"}
    policy, stage, clips = grpo(**options)
    full, _ = accumulate(policy, stage, clips, [[0, 1, 2, 3]])
    policy, stage, clips = grpo(steps_per_generation=4, **options)
    scored = []
    monkeypatch.setattr(stage, "_logps_by_step", lambda *arguments: scored.append(arguments))
    stage.accumulate_grad_batches = 8  # two rollouts to an optimizer step
    gradients, logs = accumulate(policy, stage, clips, [[0, 1, 2, 3]], empty_batches=3)

    assert scored == []
    assert distance(gradients, full) < 1e-12
    assert logs["clip_ratio/region_mean"] == 0.0

    stage.training_step(policy, clips, seed=0)
    resumed = grpo(steps_per_generation=4, **options)[1]
    resumed.accumulate_grad_batches = 8
    resumed.load_buffer_state(stage.buffer_state())
    empty = select_clips(clips, [])
    first, second = (one.training_step(policy, empty, seed=0).loss for one in (stage, resumed))
    assert first.item() == second.item()
    assert caplog.text == ""


@pytest.mark.parametrize(("accumulated", "passes"), [(1, 1), (2, 1), (4, 0), (6, 1), (8, 0)])
def test_old_log_probs_are_scored_where_the_weights_change_within_a_rollout(grpo, monkeypatch, accumulated, passes):
    policy, stage, clips = grpo(num_iterations=2, steps_per_generation=2)
    stage.accumulate_grad_batches = accumulated
    score, scored = stage._logps_by_step, []
    monkeypatch.setattr(stage, "_logps_by_step", lambda *arguments: scored.append(1) or score(*arguments))
    stage.training_step(policy, clips, seed=0)

    assert len(scored) == passes


def test_an_unknown_normalizer_is_refused():
    with pytest.raises(ConfigError, match=r"stage\.loss_normalizer=tokens is unknown; choose among micro_batch"):
        GRPOConfig(loss_normalizer="tokens")


def test_a_step_goes_through_a_checkpoint(tmp_path):
    step = AccumulatedStep()
    assert step.state() == {}
    step.add({"loss": LogValue("mean", torch.tensor(2.0), 3.0), "lr": 0.1}, 3.0)
    torch.save(step.state(), tmp_path / "step.pt")
    restored = AccumulatedStep.from_state(torch.load(tmp_path / "step.pt", weights_only=True), has_gradients=True)
    assert restored == step
    step.has_stepped = True
    assert step.state() == {}


def test_logs_of_a_generation_count_once_and_are_there_in_later_steps():
    first, second = {"reward": LogValue("mean", 1.0, 4.0)}, {"reward": LogValue("mean", 4.0, 2.0)}
    step = AccumulatedStep()
    step.add(first, 1.0, repeated=first.keys())  # a step that begins in the middle of a buffer
    step.add(first, 1.0, repeated=first.keys())
    step.add(second, 1.0)
    assert step.logs == pooled([first, second])


def test_a_step_of_an_older_checkpoint_cannot_go_on():
    assert AccumulatedStep.from_state(None, has_gradients=False) == AccumulatedStep()
    with pytest.raises(CheckpointError, match="between two accumulated batches by an older version"):
        AccumulatedStep.from_state(None, has_gradients=True)


def test_gradients_of_nothing_stay_zeros():
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.zeros(2)
    divide_gradients([weight, torch.nn.Parameter(torch.zeros(1))], 0.0)
    assert weight.grad.tolist() == [0.0, 0.0]
    assert float(StageOutput(torch.zeros(()), {}).num_items) == 1.0
