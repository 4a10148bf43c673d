"""Two processes on gloo: losses, gradients and sampled tokens are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from affectgpt_r1.distributed.sharding import full_tensor
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import ClipBatch, Sampling
from helpers.processes import join_gloo, run_two

GREEDY = Sampling(temperature=0.0, max_completion_length=6)
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


class Step(torch.nn.Module):
    """What a strategy wraps."""

    def __init__(self, policy: MultimodalPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: ClipBatch) -> torch.Tensor:
        return SFTStage().training_step(self.policy, batch, seed=0).loss

    def generate(self, batch: ClipBatch) -> list[list[str]]:
        return self.policy.generate(batch, 1, GREEDY).texts


def train_share(rank: int, folder: Path, kind: str, policy: MultimodalPolicy, batches: list[ClipBatch]) -> None:
    join_gloo(rank, folder)
    step = Step(policy)
    if kind == "ddp":
        wrapped = DistributedDataParallel(step)
    else:
        wrapped = fully_shard(step, mesh=init_device_mesh("cpu", (2,)))
        register_fsdp_forward_method(step, "generate")
    loss = wrapped(batches[rank])
    loss.backward()
    gradients = {name: full_tensor(one.grad) for name, one in policy.named_parameters() if one.requires_grad}
    with torch.no_grad():
        texts = step.generate(batches[rank])
    torch.save({"loss": loss.detach(), "gradients": gradients, "texts": texts}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_are_as_good_as_one(make_policy, make_batch, tmp_path, kind):
    policy = make_policy(lora=LORA).train()
    batches = [make_batch(2, seed=1), make_batch(2, seed=2)]
    run_two(train_share, tmp_path, kind, policy, batches)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    tokens = torch.stack([policy.encode_targets(batch).mask.sum() for batch in batches])
    shares = 2 * tokens / tokens.sum()  # each token of the global batch weighs the same
    losses = [
        share * SFTStage().training_step(policy, batch, seed=0).loss
        for share, batch in zip(shares, batches, strict=True)
    ]
    (sum(losses) / 2).backward()
    for rank, batch in enumerate(batches):
        torch.testing.assert_close(results[rank]["loss"], losses[rank].detach())
        assert results[rank]["texts"] == policy.generate(batch, 1, GREEDY).texts
        for name, parameter in policy.trainable_parameters().items():
            torch.testing.assert_close(results[rank]["gradients"][name], parameter.grad, atol=1e-5, rtol=1e-4)
