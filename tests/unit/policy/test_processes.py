"""Two processes on gloo: losses, gradients and sampled tokens are those of one process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from affectgpt_r1.stages.sft import SFTStage
from affectgpt_r1.types import Sampling

GREEDY = Sampling(temperature=0.0, max_completion_length=6)
WORKER = """
import sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from affectgpt_r1.policy.build import build_policy
from affectgpt_r1.stages.sft import SFTStage
from affectgpt_r1.types import Sampling

folder, kind, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet_{kind}", rank=rank, world_size=2)
arguments, state, batches = torch.load(f"{folder}/inputs.pt", weights_only=False)  # written by this test
policy = build_policy(**arguments).train()
policy.load_state_dict(state)

class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = policy
    def forward(self, batch):
        return SFTStage().training_step(self.policy, batch, seed=0).loss

step = Step()
if kind == "ddp":
    wrapped = DistributedDataParallel(step)
else:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    mesh = init_device_mesh("cpu", (2,))
    wrapped = fully_shard(step, mesh=mesh)
    step.generate = lambda batch: policy.generate(batch, 1, Sampling(temperature=0.0, max_completion_length=6))
    register_fsdp_forward_method(step, "generate")
loss = wrapped(batches[rank])
loss.backward()
gradients = {}
for name, one in policy.named_parameters():
    if one.requires_grad:
        gradients[name] = one.grad.full_tensor() if hasattr(one.grad, "full_tensor") else one.grad
with torch.no_grad():
    generate = step.generate if kind == "fsdp" else (
        lambda batch: policy.generate(batch, 1, Sampling(temperature=0.0, max_completion_length=6)))
    texts = generate(batches[rank]).texts
torch.save({"loss": loss.detach(), "gradients": gradients, "texts": texts}, f"{folder}/{kind}_{rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, make_policy, make_batch, tiny_config, tokenizer_file):
    folder = tmp_path_factory.mktemp("processes")
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
    policy = make_policy(lora=lora).train()
    batches = [make_batch(2, seed=1), make_batch(2, seed=2)]
    arguments = {**tiny_config, "lora": lora, "tokenizer": str(tokenizer_file), "template": policy.template}
    torch.save((arguments, policy.state_dict(), batches), folder / "inputs.pt")
    return folder, policy, batches


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_are_as_good_as_one(inputs, kind):
    folder, policy, batches = inputs
    arguments = [sys.executable, "-c", WORKER, str(folder), kind]
    started = [subprocess.Popen([*arguments, str(rank)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    errors = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    results = [torch.load(folder / f"{kind}_{rank}.pt", weights_only=True) for rank in (0, 1)]
    policy.zero_grad()
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
