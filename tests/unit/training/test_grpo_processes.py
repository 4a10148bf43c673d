"""Two gloo processes, each with half of the clips, get the gradients of one process with all of them."""

from __future__ import annotations

import itertools

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from affectgpt_r1.data.samplers import ClipSampler
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.types import Rollout, Sampling, TokenBatch
from helpers.precisions import cast, precision
from helpers.processes import join_gloo, run_two

NUM_CLIPS = 4
ABSOLUTE = {torch.float64: 1e-10, torch.float32: 5e-6}
"""Largest difference, times the gradient's norm where that is above 1. In float32 it is rounding, as float64 shows."""
SETTINGS = (
    {"loss_type": "grpo", "steps_per_generation": 1},
    {"loss_type": "bnpo", "steps_per_generation": 1, "scale_rewards": "batch"},
    {"loss_type": "dr_grpo", "entropy_coef": 0.1, "top_entropy_quantile": 0.4},
    {"loss_type": "dapo", "multi_objective_aggregation": "normalize_then_sum"},
    {"loss_type": "cispo", "importance_sampling_level": "sequence", "num_iterations": 2},
    {"loss_type": "dapo", "mask_truncated_completions": True},
)


class LetterReward:
    name = "letters"

    def __call__(self, *, completions, targets):
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


class Stepper(torch.nn.Module):
    """What DistributedDataParallel wraps: a policy whose rollout is recorded, and a stage."""

    def __init__(self, policy, rollout: Rollout, options):
        super().__init__()
        self.policy = policy
        rewards = WeightedRewards({"letters": LetterReward(), "format": FormatReward()}, {"letters": 1, "format": 1})
        settings = {"num_generations": 4, "steps_per_generation": 2, **options}
        self.stage = GRPOStage(rewards, load_lexicon("bundled"), Sampling(max_completion_length=12), **settings)
        self.rollout = rollout
        policy.generate = self.recorded

    def recorded(self, batch, num_generations, sampling, generator=None) -> Rollout:
        clips = [int(name.removeprefix("clip_")) for name in batch.names]
        tokens, logps, texts, truncated = self.rollout
        own = TokenBatch(tokens.ids[clips], tokens.mask[clips])
        return Rollout(own, logps[clips], [texts[clip] for clip in clips], truncated[clips])

    def forward(self, batch):
        return self.stage.training_step(self.policy, batch, seed=0).loss


def gradients(stepper, batch, wrapped=None):
    """Gradients of each step of a generation, one list entry a step."""
    found = []
    for visit in range(stepper.stage.schedule.steps):
        stepper.zero_grad()
        (wrapped or stepper)(select_clips(batch, []) if visit else batch).backward()
        found.append({name: one.grad.clone() for name, one in stepper.named_parameters() if one.grad is not None})
    return found


def train_share(rank, folder, policy, rollout, batch):
    join_gloo(rank, folder)
    try:
        sampler = ClipSampler(NUM_CLIPS, seed=0, shuffle=False, num_replicas=2, rank=rank)
        mine = select_clips(batch, [key.index for key in sampler])
        for dtype in ABSOLUTE:
            found = []
            with precision(dtype):
                policy, mine = cast(policy, mine, dtype)
                for options in SETTINGS:
                    stepper = Stepper(policy, rollout, options)
                    found.append(gradients(stepper, mine, DistributedDataParallel(stepper)))
            torch.save(found, folder / f"{rank}_{dtype}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tiny_policy, make_batch, tmp_path):
    batch = tiny_policy.with_features(make_batch())
    sampling = Sampling(max_completion_length=12, temperature=1.5)
    rollout = unequally_long(tiny_policy.eval().generate(batch, 4, sampling, torch.Generator().manual_seed(3)))
    run_two(train_share, tmp_path, tiny_policy, rollout, batch)
    policy = tiny_policy
    for dtype in ABSOLUTE:
        shares = [torch.load(tmp_path / f"{rank}_{dtype}.pt") for rank in (0, 1)]
        with precision(dtype):
            policy, batch = cast(policy, batch, dtype)
            for number, options in enumerate(SETTINGS):
                alone = gradients(Stepper(policy, rollout, options), batch)
                assert_equal_gradients(alone, [share[number] for share in shares], dtype, options)


def unequally_long(rollout: Rollout) -> Rollout:
    """Equally long completions would hide a wrong count of tokens; of each clip's, the last is truncated."""
    tokens, logps, texts, *_ = rollout
    mask = tokens.mask * (torch.arange(tokens.mask.shape[-1]) < torch.tensor([[4], [9], [6], [3]]))
    mask[1:, -1] = tokens.mask[1:, -1]
    truncated = torch.zeros(mask.shape[:2], dtype=torch.bool)
    truncated[:, -1] = True
    return Rollout(TokenBatch(tokens.ids, mask), logps, texts, truncated)


def assert_equal_gradients(alone, shares, dtype, options) -> None:
    norms = [torch.stack([one.norm() for one in expected.values()]).norm().item() for expected in alone]
    assert max(norms) > 1e-2  # a step whose completions are all truncated rightly has none
    for step, share in itertools.product(range(len(alone)), shares):
        for name, gradient in alone[step].items():
            assert gradient.dtype == dtype
            difference = (share[step][name] - gradient).abs().max().item()
            assert difference < ABSOLUTE[dtype] * max(1.0, norms[step]), (options, step, name)
