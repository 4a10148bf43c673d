"""Logits of heads in bfloat16, and under autocast, against double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from affectgpt_r1.engine.precision import head_logits
from affectgpt_r1.policy.backbone import add_lora
from affectgpt_r1.types import Sampling


def adapted_head() -> nn.Module:
    model = nn.ModuleDict({"lm_head": nn.Linear(64, 900, bias=False)})
    add_lora(model, r=4, alpha=8, dropout=0.0, target_modules=["lm_head"])
    nn.init.normal_(model["lm_head"].lora_B["default"].weight)
    return model["lm_head"]


HEADS = {
    "plain": lambda: nn.Linear(64, 900, bias=False),
    "bias": lambda: nn.Linear(64, 900),
    "adapters": adapted_head,
}


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("build", HEADS.values(), ids=HEADS)
def test_logits_are_not_rounded_to_half_precision(build, dtype, autocast):
    torch.manual_seed(0)
    head, states = build().to(dtype), (100 * torch.randn(30, 64)).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = head_logits(head, states)
    exact = copy.deepcopy(head).double()(states.double())
    assert logits.dtype == torch.float32
    assert exact.abs().max() > 100
    torch.testing.assert_close(logits.double(), exact, atol=2e-3, rtol=0)


def test_gradients_come_in_the_type_of_the_weights():
    torch.manual_seed(0)
    head, states = adapted_head().bfloat16(), torch.randn(9, 64).bfloat16().requires_grad_()
    head_logits(head, states).square().sum().backward()
    assert states.grad.dtype == head.lora_A["default"].weight.grad.dtype == torch.bfloat16
    assert head.lora_A["default"].weight.grad.any()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_generation_and_log_probs_in_bfloat16_agree_on_the_first_token(make_policy, make_batch, temperature):
    """Both have the same states there: what differs is the head alone."""
    policy, batch = make_policy().eval(), make_batch()
    policy.language_model.bfloat16()
    with torch.no_grad():
        rollout = policy.generate(
            batch, 8, Sampling(temperature=temperature, max_completion_length=1), torch.Generator().manual_seed(1)
        )
        scored = policy.per_token_logps(batch, rollout.completions, temperature)
    torch.testing.assert_close(rollout.per_token_logps, scored, atol=1e-4, rtol=0)
    assert rollout.per_token_logps.max() <= 0
