"""Token log-probabilities against torch's own, and masked means by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.engine.reference import entropy_from_logits, selective_log_softmax
from affectgpt_r1.training.sft import masked_mean


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 11), (2, 3, 5)])
def test_chosen_tokens_have_their_log_softmax(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(shape, generator=generator)).to(dtype)
    ids = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.log_softmax(logits.to(exact), -1).gather(-1, ids[..., None])[..., 0]
    result = selective_log_softmax(logits, ids)
    assert result.dtype == exact
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-6)


def test_gradient_is_that_of_log_softmax():
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ids = torch.arange(6)
    (mine,) = torch.autograd.grad(selective_log_softmax(logits, ids).sum(), logits)
    (expected,) = torch.autograd.grad(torch.log_softmax(logits, -1)[torch.arange(6), ids].sum(), logits)
    torch.testing.assert_close(mine, expected)


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12))
def test_entropy_is_between_zero_and_uniform(values):
    entropy = entropy_from_logits(torch.tensor(values)).item()
    assert -1e-6 <= entropy <= math.log(len(values)) + 1e-5


def test_entropy_worked_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(0.5), math.log(0.25), math.log(0.25), -1e9]])
    expected = torch.tensor([math.log(4), 1.5 * math.log(2)])
    torch.testing.assert_close(entropy_from_logits(logits), expected)


def test_masked_mean_counts_only_what_the_mask_keeps():
    values, mask = torch.tensor([[1.0, 5.0], [3.0, 100.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert masked_mean(values, mask).item() == 3.0
    assert masked_mean(values, torch.zeros(2, 2)).item() == 0.0
