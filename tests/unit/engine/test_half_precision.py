"""bfloat16 against double precision, with key and query biases as large as Qwen2's: every path of attention."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from affectgpt_r1.engine import flash_attention as flash
from affectgpt_r1.engine import graph_decoder, precision
from affectgpt_r1.engine import varlen_attention as group_attention
from affectgpt_r1.engine.fused_decoder import KVCache
from affectgpt_r1.engine.graph_decoder import StaticKVCache
from affectgpt_r1.engine.precision import exact_matmul
from affectgpt_r1.engine.prefix_attention import CausalAttention, PrefixAttention, use_prefix_attention
from affectgpt_r1.engine.varlen_attention import PackedLengths, attend_causally, attend_last_tokens

CPU = torch.device("cpu")
PROMPTS, COMPLETIONS = [40, 25], [20, 7, 13, 20, 1, 9]
HEADS, KEY_HEADS, SIZE = 4, 2, 128
SCALE = SIZE**-0.5
BOUND = 0.005
"""Of the norm of the exact output: bfloat16's own steps are 0.004, and the outputs are rounded to them."""


def qwen_like_states(total, peak):
    """Query, key and value in bfloat16; 8 of the 128 dimensions have biases that make scaled scores reach ``peak``."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(total, n, SIZE, generator=generator) for n in (HEADS, KEY_HEADS, KEY_HEADS))
    bias = (peak / SCALE / 8) ** 0.5
    query[..., :8] += bias
    key[..., :8] += bias
    return [one.bfloat16() for one in (query, key, value)]


def error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def repeated(one):
    """Key heads for every query head, heads first: ``(1, H, T, d)``."""
    return one.repeat_interleave(HEADS // one.shape[1], 1).transpose(0, 1).unsqueeze(0)


def causal(kernel, states):
    query, key, value = map(repeated, states)
    return kernel(query, key, value, scale=SCALE, causal=True, bias=None)[0][0].transpose(0, 1)


def shared(states):
    """Prompts, and completions after them."""
    return PrefixAttention(PackedLengths(PROMPTS, CPU), PackedLengths(COMPLETIONS, CPU)).attend(0, *states, SCALE)


def prefilled(states):
    first = PrefixAttention(PackedLengths(PROMPTS, CPU), None, keep=True)
    at = sum(PROMPTS)
    before = first.attend(0, *(one[:at] for one in states), SCALE)
    row = PrefixAttention(first.prompts, PackedLengths(COMPLETIONS, CPU), prefilled=True, cache=first.cache)
    return torch.cat([before, row.attend(0, *(one[at:] for one in states), SCALE)])


def ends(states):
    """The last layer's queries: each prompt's end."""
    query, key, value = (one[: sum(PROMPTS)] for one in states)
    return attend_last_tokens(
        query[torch.tensor(PROMPTS).cumsum(0) - 1], key, value, PackedLengths(PROMPTS, CPU), SCALE
    )


def decoded(states, rows=None):
    """Three tokens of each of three completions of a prompt."""
    prompts, (query, key, value) = PackedLengths(PROMPTS, CPU), states
    at = sum(PROMPTS)
    row = KVCache(prompts, {0: (key[:at], value[:at])}, 3, 3)
    outputs = []
    for step in range(3):
        some = torch.arange(6) if rows is None else torch.tensor(rows)
        newest = at + 6 * step + some
        row.begin(some)
        outputs.append(row.attend(0, query[newest], key[newest], value[newest], SCALE))
        row.length += 1
    return torch.cat(outputs)


def some_decoded(states):
    return decoded(states, rows=[0, 2, 5])


def in_a_graph(states):
    """As :func:`decoded`, by the decoder for CUDA, whose attention reads two buckets."""
    prompts, (query, key, value) = PackedLengths(PROMPTS, CPU), states
    at, outputs = sum(PROMPTS), []
    cache = StaticKVCache(prompts, {0: (key[:at], value[:at])}, HEADS, 3, 3, query.dtype, "auto")
    for step in range(3):
        cache.bucket = 2 if step < 2 else 3
        cache.begin()
        newest = slice(at + 6 * step, at + 6 * step + 6)
        outputs.append(cache.attend(0, query[newest], key[newest], value[newest], SCALE))
        cache.place.add_(1)
    return torch.cat(outputs)


def library(states):
    """The attention of a transformers layer that is given no packed attention."""
    query, key, value = (one.transpose(0, 1).unsqueeze(0) for one in states)
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation=""))
    use_prefix_attention(model)
    from transformers import AttentionInterface

    layer = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, is_causal=True, training=False)
    attend = AttentionInterface()[model.config._attn_implementation]
    return attend(layer, query, key, value, None, scaling=SCALE, dropout=0.0)[0][0]


PATHS = {
    "fused kernel": lambda states: causal(flash.attention_forward, states),
    "products": lambda states: causal(flash.plain_attention_forward, states),
    "causal": lambda states: attend_causally(*states, PackedLengths([*PROMPTS, *COMPLETIONS], CPU), SCALE),
    "shared": shared,
    "prefilled": prefilled,
    "ends": ends,
    "decoded": decoded,
    "some decoded": some_decoded,
    "in a graph": in_a_graph,
    "repeated": lambda states: CausalAttention(PackedLengths([*PROMPTS, *COMPLETIONS], CPU)).attend(0, *states, SCALE),
    "library": library,
}


@pytest.fixture(params=["cpu", "accelerator"])
def kernels(request, monkeypatch):
    """The kernels of either device, on the CPU."""
    if request.param == "accelerator":
        for module in (group_attention, graph_decoder):
            monkeypatch.setattr(module, "chosen_attention", lambda *_: "plain")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("peak", [64, 331, 1057])
def test_scores_as_high_as_qwen2s_lose_nothing_before_the_softmax(path, peak, autocast):
    states = qwen_like_states(sum(PROMPTS) + sum(COMPLETIONS), peak)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = path(states)
        exact = path([one.double() for one in states])
    assert found.dtype == torch.bfloat16
    assert error(found, exact) <= BOUND


@pytest.mark.usefixtures("kernels")
def test_gradients_of_the_products_are_as_good_as_the_fused_kernels():
    """Near 1,000 the query's gradient is a small difference: of the fused kernel, too, a tenth is rounding."""
    bounds = {"query": 0.11, "key": 0.01, "value": 0.005}
    states = qwen_like_states(sum(PROMPTS) + sum(COMPLETIONS), 1057)
    outward = torch.randn(states[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradients = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [one.to(dtype).requires_grad_() for one in states]
        gradients.append(torch.autograd.grad(shared(inputs), inputs, outward.to(dtype)))
    for (name, bound), found, exact in zip(bounds.items(), *gradients, strict=True):
        assert error(found, exact) < bound, name


@pytest.mark.parametrize("path", [causal, ends, decoded, some_decoded])
def test_single_precision_is_plain_products(path, monkeypatch):
    """Bit by bit: no cast, no other order of operations."""
    states = [one.float() for one in qwen_like_states(sum(PROMPTS) + sum(COMPLETIONS), 64)]
    run = (lambda: path(flash.plain_attention_forward, states)) if path is causal else (lambda: path(states))
    found = run()
    for module in ("flash_attention", "varlen_attention", "fused_decoder"):
        monkeypatch.setattr(f"affectgpt_r1.engine.{module}.exact_matmul", torch.matmul)
    assert torch.equal(run(), found)


def test_accelerators_multiply_in_half_and_return_single_precision(monkeypatch):
    """CUDA's kernel is asked for single precision; this machine has none, so it is simulated."""
    calls = []

    def kernel(first, second, *, out_dtype):
        calls.append((first.dtype, second.dtype, out_dtype))
        return torch.matmul(first.to(out_dtype), second.to(out_dtype))

    first, second = torch.randn(2, 3, 4, 5).bfloat16(), torch.randn(2, 3, 5, 6).bfloat16()
    expected = exact_matmul(first, second)
    assert expected.equal(first.float() @ second.float())
    monkeypatch.setattr(precision, "_returns_single_precision", lambda *_: True)
    monkeypatch.setattr(torch, "bmm", kernel)
    monkeypatch.setattr(torch, "mm", kernel)
    assert exact_matmul(first, second).equal(expected)
    assert exact_matmul(first[0, 0], second[0, 0]).equal(expected[0, 0])
    assert calls == [(torch.bfloat16, torch.bfloat16, torch.float32)] * 2
