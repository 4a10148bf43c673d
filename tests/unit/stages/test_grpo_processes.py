"""Two gloo processes, each with half of the clips, get the gradients of one process with all of them."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from torch.nn.parallel import DistributedDataParallel

from affectgpt_r1.config import REPOSITORY
from affectgpt_r1.data.samplers import ResumableSampler
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.policy import shared_attention
from affectgpt_r1.policy.backbone import use_attention
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.stages.grpo import GRPOStage
from affectgpt_r1.stages.rollouts import select_clips
from affectgpt_r1.types import Rollout, Sampling, TokenBatch

NUM_CLIPS = 4
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


def train_share(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        policy, rollout, batch = torch.load(f"{folder}/start.pt", weights_only=False)
        use_attention(policy.language_model, shared_attention.NAME, shared_attention.attention)  # it is not pickled
        dealt = ResumableSampler(NUM_CLIPS, seed=0, shuffle=False, batch_size=2, num_replicas=2, rank=rank)
        mine = select_clips(batch, [key.index for key in dealt])
        found = []
        for options in SETTINGS:
            stepper = Stepper(policy, rollout, options)
            found.append(gradients(stepper, mine, DistributedDataParallel(stepper)))
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tiny_policy, make_batch, tmp_path, monkeypatch):
    batch = tiny_policy.with_features(make_batch())
    sampling = Sampling(max_completion_length=12, temperature=1.5)
    rollout = tiny_policy.eval().generate(batch, 4, sampling, torch.Generator().manual_seed(3))
    lengths = rollout.completions.mask.sum((1, 2))
    if len(set(lengths.tolist())) == 1:
        pytest.fail("equally long completions would hide a wrong count of tokens")
    tiny_policy.towers.audio = torch.nn.Identity()  # HuBERT cannot be pickled; the features are computed already
    torch.save((tiny_policy, rollout, batch), tmp_path / "start.pt")
    monkeypatch.syspath_prepend(str(REPOSITORY))  # the processes import this module by its path from there
    multiprocessing.spawn(train_share, args=(str(tmp_path),), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for number, options in enumerate(SETTINGS):
        alone = gradients(Stepper(tiny_policy, rollout, options), batch)
        norms = [torch.stack([one.norm() for one in expected.values()]).norm().item() for expected in alone]
        assert max(norms) > 1e-2  # a step whose completions are all truncated rightly has none
        for step, share in itertools.product(range(len(alone)), shares):
            for name, gradient in alone[step].items():
                difference = (share[number][step][name] - gradient).abs().max().item()
                assert difference < 1e-6 * max(1.0, norms[step]), (options, step, name)
