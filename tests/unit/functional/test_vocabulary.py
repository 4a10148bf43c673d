"""The tiled head against all logits at once, in values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.functional import vocabulary
from affectgpt_r1.functional.vocabulary import vocabulary_scores


def tensors(tokens, vocabulary_size, size=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(tokens, size, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary_size, size, generator=generator, dtype=dtype)
    return states, weight, torch.randint(vocabulary_size, (tokens,), generator=generator)


def all_at_once(states, weight, ids, temperature):
    logps = torch.log_softmax(states @ weight.T / temperature, -1)
    return logps.gather(-1, ids.unsqueeze(-1)).squeeze(-1), -(logps.exp() * logps).sum(-1)


@given(
    tokens=st.integers(1, 9),
    vocabulary_size=st.integers(2, 23),
    rows=st.integers(1, 10),
    columns=st.integers(1, 25),
    temperature=st.sampled_from([0.7, 1.0, 2.0]),
)
@settings(max_examples=40)
def test_values_and_gradients_for_any_tile(tokens, vocabulary_size, rows, columns, temperature):
    states, weight, ids = tensors(tokens, vocabulary_size)
    inputs = [states.requires_grad_(), weight.requires_grad_()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "ROWS", rows)
        patch.setattr(vocabulary, "COLUMNS", columns)
        mine = vocabulary_scores(states, weight, ids, temperature=temperature, entropy=True)
        expected = all_at_once(states, weight, ids, temperature)
        # The running sums are single precision whatever the weights are.
        torch.testing.assert_close(mine.logps.double(), expected[0], atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(mine.entropies.double(), expected[1], atol=1e-5, rtol=1e-6)
        weights = torch.linspace(-1.0, 2.0, tokens, dtype=torch.float64)
        for loss in (lambda logps, _: (logps * weights).sum(), lambda logps, h: ((logps - h**2) * weights).sum()):
            got = torch.autograd.grad(loss(*mine), inputs, retain_graph=True)
            wanted = torch.autograd.grad(loss(*expected), inputs, retain_graph=True)
            for one, other in zip(got, wanted, strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("vocabulary_size", [2048, 5000])
def test_single_precision(vocabulary_size):
    states, weight, ids = tensors(64, vocabulary_size, 64, torch.float32, seed=3)
    weight = weight * 0.4
    expected = all_at_once(states.double(), weight.double(), ids, 1.0)
    mine = vocabulary_scores(states, weight, ids, entropy=True)
    torch.testing.assert_close(mine.logps.double(), expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mine.entropies.double(), expected[1], atol=1e-5, rtol=0)


def test_a_frozen_weight_takes_no_gradient():
    states, weight, ids = tensors(5, 11, dtype=torch.float32)
    states.requires_grad_()
    vocabulary_scores(states, weight, ids).logps.sum().backward()
    assert weight.grad is None
    expected = states.detach().clone().requires_grad_()
    all_at_once(expected, weight, ids, 1.0)[0].sum().backward()
    torch.testing.assert_close(states.grad, expected.grad, atol=1e-5, rtol=0)


def test_no_tensor_of_all_logits_exists(monkeypatch):
    monkeypatch.setattr(vocabulary, "ROWS", 8)
    monkeypatch.setattr(vocabulary, "COLUMNS", 16)
    states, weight, ids = tensors(64, 256, dtype=torch.float32)
    states.requires_grad_()
    weight.requires_grad_()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            result = function(*arguments, **(keywords or {}))
            for one in result if isinstance(result, tuple) else (result,):
                largest = max(largest, one.numel() if isinstance(one, torch.Tensor) else 0)
            return result

    with Watch():
        vocabulary_scores(states, weight, ids, entropy=True).logps.sum().backward()
    assert largest == 256 * 16  # the weight and its gradient, not 64 * 256 logits


def test_no_tokens_at_all():
    states, weight, _ = tensors(3, 7, dtype=torch.float32)
    scores = vocabulary_scores(states[:0].requires_grad_(), weight, torch.zeros(0, dtype=torch.long), entropy=True)
    assert scores.logps.shape == scores.entropies.shape == (0,)
    scores.logps.sum().backward()
