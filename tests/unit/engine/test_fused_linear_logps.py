"""The chunked head against all logits at once, in values, gradients and memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.engine import chunk_sizes
from affectgpt_r1.engine.fused_linear_logps import fused_linear_logps


def tensors(tokens, vocabulary_size, size=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(tokens, size, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary_size, size, generator=generator, dtype=dtype)
    return states, weight, torch.randint(vocabulary_size, (tokens,), generator=generator)


def trained(tokens, vocabulary_size, **options):
    states, weight, ids = tensors(tokens, vocabulary_size, **options)
    return states.requires_grad_(), weight.requires_grad_(), ids


def all_at_once(states, weight, ids, temperature=1.0):
    logps = torch.log_softmax(states.double() @ weight.double().T / temperature, -1)
    return logps.gather(-1, ids.unsqueeze(-1)).squeeze(-1), -(logps.exp() * logps).sum(-1)


def slopes(tokens):
    return torch.linspace(-1.0, 2.0, tokens, dtype=torch.float64)


def precomputed_slopes(tokens):
    return lambda logps, rows: slopes(tokens)[rows] + 0 * logps


def square_slopes(logps, rows):
    """The gradient of half the sum of squares, off by a factor."""
    return 3.0 * logps


LOSSES = {
    "linear": lambda logps, _: (logps * slopes(len(logps))).sum(),
    "square": lambda logps, _: logps.square().sum(),
    "entropy": lambda _, entropies: (entropies * slopes(len(entropies))).sum(),
    "both": lambda logps, entropies: ((logps - entropies**2) * slopes(len(logps))).sum(),
}


@given(
    tokens=st.integers(1, 9),
    vocabulary_size=st.integers(2, 23),
    rows=st.integers(1, 10),
    columns=st.integers(1, 25),
    kept=st.integers(1, 120),
    temperature=st.sampled_from([0.7, 1.0, 2.0]),
    precomputed_grads=st.sampled_from(["none", "linear", "square"]),
    frozen=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_values_and_gradients_for_any_chunk(
    tokens, vocabulary_size, rows, columns, kept, temperature, precomputed_grads, frozen
):
    states, weight, ids = trained(tokens, vocabulary_size)
    inputs = [states] if frozen else [states, weight]
    weight.requires_grad_(not frozen)
    precomputed_grads = {"none": None, "linear": precomputed_slopes(tokens), "square": square_slopes}[precomputed_grads]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ROWS", rows), ("COLUMNS", columns), ("KEPT_LOGITS", kept)):
            patch.setattr(chunk_sizes, name, value)
        mine = fused_linear_logps(
            states, weight, ids, temperature=temperature, entropy=True, precomputed_grads=precomputed_grads
        )
        expected = all_at_once(states, weight, ids, temperature)
        # Log-probs come in single precision whatever the weights are.
        torch.testing.assert_close(mine.logps.double(), expected[0], atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(mine.entropies.double(), expected[1], atol=1e-5, rtol=1e-6)
        for loss in LOSSES.values():
            got = torch.autograd.grad(loss(*mine), inputs, retain_graph=True)
            wanted = torch.autograd.grad(loss(*expected), inputs, retain_graph=True)
            for one, other in zip(got, wanted, strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.4, 1.0])
@pytest.mark.parametrize("vocabulary_size", [2048, 5000])
def test_single_precision(vocabulary_size, scale):
    states, weight, ids = tensors(64, vocabulary_size, 64, torch.float32, seed=3)
    weight = weight * scale
    expected = all_at_once(states, weight, ids)
    mine = fused_linear_logps(states, weight, ids, entropy=True)
    torch.testing.assert_close(mine.logps.double(), expected[0], atol=1e-5, rtol=2e-7)
    torch.testing.assert_close(mine.entropies.double(), expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("precomputed_grads", [None, square_slopes])
def test_tokens_of_hardly_any_probability(precomputed_grads):
    """Their logit does not do as a shift: exp(150) is not a single-precision number, exp(60) leaves no room."""
    states = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).requires_grad_()
    weight = torch.tensor([[150.0, 0.0], [90.0, 60.0], [0.0, 0.0], [0.0, 1.0]]).requires_grad_()
    ids = torch.tensor([2, 1, 3])
    results = []
    for score in (
        lambda: fused_linear_logps(states, weight, ids, entropy=True, precomputed_grads=precomputed_grads),
        None,
    ):
        logps, entropies = score() if score else all_at_once(states, weight, ids)
        results.append((logps, entropies, *torch.autograd.grad(logps.square().sum() / 2, [states, weight])))
    assert results[1][0][0] == -150
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), expected.double(), atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, -1 / 3, 65536.0])
def test_precomputed_gradients_right_up_to_a_factor_save_the_second_walk(walks_again, scale):
    states, weight, ids = trained(30, 600, dtype=torch.float32)
    logps, _ = fused_linear_logps(states, weight, ids, entropy=True, precomputed_grads=square_slopes)
    got = torch.autograd.grad(logps.square().sum() * scale, [states, weight])
    assert not walks_again
    wanted = torch.autograd.grad(all_at_once(states, weight, ids)[0].square().sum() * scale, [states, weight])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one / scale, other / scale, atol=1e-4, rtol=1e-5)


def one_token_off(logps, rows):
    """Half the squares' gradient but for the token at hand in place 17, which is a 100,000th off."""
    return logps * (1 + 1e-5 * (torch.arange(30)[rows] == 17))


WRONG_GRADS = {
    "other": precomputed_slopes(30),
    "one token": one_token_off,
    "nothing": lambda logps, rows: 0 * logps,
    "not a number": lambda logps, rows: logps * torch.nan,
    "infinite": lambda logps, rows: logps * torch.inf,
}


@pytest.mark.parametrize("precomputed_grads", WRONG_GRADS.values(), ids=WRONG_GRADS)
def test_wrong_precomputed_gradients_cost_a_second_walk_and_nothing_else(walks_again, precomputed_grads):
    states, weight, ids = trained(30, 600, dtype=torch.float32)
    logps, _ = fused_linear_logps(states, weight, ids, precomputed_grads=precomputed_grads)
    got = torch.autograd.grad(logps.square().sum(), [states, weight])
    assert len(walks_again) == 1
    recomputed, _ = fused_linear_logps(states, weight, ids)
    wanted = torch.autograd.grad(recomputed.square().sum(), [states, weight])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


def test_precomputed_gradients_of_zero(walks_again):
    states, weight, ids = trained(5, 11, dtype=torch.float32)
    logps, _ = fused_linear_logps(states, weight, ids, precomputed_grads=WRONG_GRADS["nothing"])
    (logps * 0).sum().backward()
    assert not walks_again
    assert not weight.grad.any()
    assert not states.grad.any()


def test_a_second_backward_pass_adds_the_same_again(walks_again):
    states, weight, ids = trained(30, 600, dtype=torch.float32)
    logps, _ = fused_linear_logps(states, weight, ids, precomputed_grads=square_slopes)
    loss = logps.square().sum()
    loss.backward(retain_graph=True)
    once = [states.grad.clone(), weight.grad.clone()]
    loss.backward()
    assert len(walks_again) == 1
    for one, other in zip([states.grad, weight.grad], once, strict=True):
        torch.testing.assert_close(one, 2 * other, atol=1e-4, rtol=1e-5)


def test_the_precomputed_gradient_is_handed_over_and_freed():
    states, weight, ids = trained(5, 11, dtype=torch.float32)
    logps, _ = fused_linear_logps(states, weight, ids, precomputed_grads=lambda logps, rows: torch.ones_like(logps))
    where = logps.grad_fn.to_weight.data_ptr()
    logps.sum().backward()
    assert logps.grad_fn.to_weight is None
    assert weight.grad.data_ptr() == where
    unused, _ = fused_linear_logps(states, weight, ids, precomputed_grads=square_slopes)
    held = weakref.ref(unused.grad_fn.to_weight)
    del unused
    assert held() is None


def test_half_precision_precomputes_nothing_and_keeps_its_type():
    states, weight, ids = trained(30, 600, dtype=torch.float32)
    halved = [one.detach().bfloat16().requires_grad_() for one in (states, weight)]

    def never(logps, rows):
        raise AssertionError

    mine = fused_linear_logps(*halved, ids, entropy=True, precomputed_grads=never)
    expected = all_at_once(*halved, ids)
    torch.testing.assert_close(mine.logps.double(), expected[0], atol=0.1, rtol=0)
    torch.testing.assert_close(mine.entropies.double(), expected[1], atol=0.1, rtol=0)
    for one, other in zip(mine, expected, strict=True):
        got = torch.autograd.grad(one.sum(), halved, retain_graph=True)
        for half, exact in zip(got, torch.autograd.grad(other.sum(), halved, retain_graph=True), strict=True):
            assert half.dtype == torch.bfloat16
            assert (half.float() - exact.float()).norm() < 0.05 * exact.float().norm()


def test_under_autocast_the_head_keeps_its_weights_precision(walks_again):
    states, weight, ids = trained(30, 600, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps, _ = fused_linear_logps(states.bfloat16(), weight, ids, precomputed_grads=square_slopes)
        got = torch.autograd.grad(logps.square().sum(), weight)[0]
    assert not walks_again
    expected = all_at_once(states.bfloat16(), weight, ids)[0]
    torch.testing.assert_close(logps.double(), expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(got, torch.autograd.grad(expected.square().sum(), weight)[0], atol=1e-4, rtol=1e-5)


def test_a_frozen_weight_takes_no_gradient():
    states, weight, ids = tensors(5, 11, dtype=torch.float32)
    states.requires_grad_()
    fused_linear_logps(states, weight, ids, precomputed_grads=square_slopes).logps.sum().backward()
    assert weight.grad is None
    expected = states.detach().clone().requires_grad_()
    all_at_once(expected, weight, ids)[0].sum().backward()
    torch.testing.assert_close(states.grad, expected.grad, atol=1e-5, rtol=0)


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor, and the matrix products in multiplications."""

    def __init__(self):
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for one in result if isinstance(result, tuple) else (result,):
            self.largest = max(self.largest, one.numel() if isinstance(one, torch.Tensor) else 0)
        if function.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            first, second = [one for one in arguments if isinstance(one, torch.Tensor)][-2:]
            self.products += first.numel() * second.shape[1]
        return result


def ones(logps, rows):
    return torch.ones_like(logps)


@pytest.mark.parametrize(
    ("states_train", "weight_trains", "precomputed_grads", "forward", "backward"),
    [
        (False, False, None, 1, 0),
        (True, False, None, 2, 0),
        (True, True, None, 2, 2),
        (True, True, ones, 3, 0),
        (True, True, square_slopes, 3, 2),
    ],
)
def test_matrix_products_over_the_vocabulary(states_train, weight_trains, precomputed_grads, forward, backward):
    states, weight, ids = tensors(60, 700, dtype=torch.float32)
    states.requires_grad_(states_train)
    weight.requires_grad_(weight_trains)
    with Watch() as scoring:
        logps, _ = fused_linear_logps(states, weight, ids, precomputed_grads=precomputed_grads)
    assert scoring.products == forward * states.shape[0] * weight.numel()
    if states_train:
        with Watch() as differentiating:
            logps.sum().backward()
        assert differentiating.products == backward * states.shape[0] * weight.numel()
    with torch.no_grad(), Watch() as looking:
        fused_linear_logps(states, weight, ids, precomputed_grads=precomputed_grads)
    assert looking.products == states.shape[0] * weight.numel()


@pytest.mark.parametrize("precomputed_grads", [None, ones, square_slopes])
def test_no_tensor_of_all_logits_exists(monkeypatch, precomputed_grads):
    monkeypatch.setattr(chunk_sizes, "ROWS", 8)
    monkeypatch.setattr(chunk_sizes, "COLUMNS", 16)
    monkeypatch.setattr(chunk_sizes, "KEPT_LOGITS", 7 * 256)
    states, weight, ids = trained(64, 256, dtype=torch.float32)
    with Watch() as watch:
        fused_linear_logps(
            states, weight, ids, entropy=True, precomputed_grads=precomputed_grads
        ).logps.sum().backward()
    assert watch.largest == 256 * 16  # the weight and its gradient, not 64 * 256 logits


def test_no_tokens_at_all():
    states, weight, _ = trained(3, 7, dtype=torch.float32)
    none = torch.zeros(0, dtype=torch.long)
    for precomputed_grads in (None, square_slopes):
        scores = fused_linear_logps(states[:0], weight, none, entropy=True, precomputed_grads=precomputed_grads)
        assert scores.logps.shape == scores.entropies.shape == (0,)
        (scores.logps.sum() + scores.entropies.sum()).backward()
        assert not weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_half_precision_sums_logits_that_are_not_rounded(dtype, temperature, scale):
    """Logits up to 100, of which bfloat16 keeps the halves; every other token is the most likely one."""
    states, weight, ids = tensors(200, 3000, 64, torch.float32, seed=1)
    states, weight = (scale * states).to(dtype), weight.to(dtype)
    ids[1::2] = (states.float() @ weight.float().T).argmax(-1)[1::2]
    mine = fused_linear_logps(states, weight, ids, temperature=temperature, entropy=True)
    expected = all_at_once(states, weight, ids, temperature)
    torch.testing.assert_close(mine.logps.double(), expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(mine.entropies.double(), expected[1], atol=1e-4, rtol=0)
    assert mine.logps.max() <= 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_half_precision_gradients_are_rounded_once(temperature):
    states, weight, ids = tensors(200, 3000, 64, torch.float32, seed=1)
    halved = [one.bfloat16().requires_grad_() for one in (states, weight)]
    doubled = [one.detach().double().requires_grad_() for one in halved]
    mine = fused_linear_logps(*halved, ids, temperature=temperature, entropy=True)
    expected = all_at_once(*doubled, ids, temperature)
    for loss in LOSSES.values():
        got = torch.autograd.grad(loss(*mine), halved, retain_graph=True)
        wanted = torch.autograd.grad(loss(*expected), doubled, retain_graph=True)
        for one, other in zip(got, wanted, strict=True):
            assert (one.double() - other).norm() < 0.004 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_log_probability_is_above_zero(dtype):
    """The logit of a sure token and its term in the sum are rounded apart."""
    states, weight, _ = tensors(2000, 600, 256, torch.float32, seed=4)
    states, weight = (2 * states).to(dtype), weight.to(dtype)
    ids = (states.float() @ weight.float().T).argmax(-1)
    logps = fused_linear_logps(states, weight, ids).logps
    assert (logps > -1e-3).sum() > 500
    assert logps.max() <= 0
