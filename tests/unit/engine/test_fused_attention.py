"""Kernels of attention agree: FlashAttention's two calls, here computed by plain products, FlexAttention, and plain."""

from itertools import pairwise

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from affectgpt_r1.engine import fused_attention, varlen_attention
from affectgpt_r1.engine.fused_attention import chosen_attention, flash_attend
from affectgpt_r1.engine.varlen_attention import PackedLengths, attend_causally, attend_to_prefix
from affectgpt_r1.errors import ConfigError

CPU = torch.device("cpu")
SCALE = 0.25


@pytest.fixture
def packed():
    """Two prompts, three completions of each; four query heads to two of the keys."""
    torch.manual_seed(0)
    prompts, own = PackedLengths([5, 9], CPU), PackedLengths([4, 1, 7, 3, 8, 2], CPU)
    shapes = [(own.total, 4), *[(own.total, 2)] * 2, *[(prompts.total, 2)] * 2]
    return prompts, own, [torch.randn(*shape, 16, dtype=torch.float64, requires_grad=True) for shape in shapes]


def parts(queries, keys):
    bounds = zip(pairwise(queries.cu_seqlens.tolist()), pairwise(keys.cu_seqlens.tolist()), strict=True)
    return [(slice(*rows), slice(*columns)) for rows, columns in bounds]


def scores(query, key, causal, scale):
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    values = torch.einsum("qhd,khd->hqk", query, key) * scale
    return values.masked_fill(torch.ones_like(values[0]).triu(1).bool(), -torch.inf) if causal else values


def forward(query, key, value, queries, keys, *, causal, scale):
    """As FlashAttention's varlen forward pass."""
    assert queries.max_seqlen == queries.cu_seqlens.diff().max()
    assert keys.max_seqlen == keys.cu_seqlens.diff().max()
    output, normalizer = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
    for rows, columns in parts(queries, keys):
        found = scores(query[rows], key[columns], causal, scale)
        normalizer[:, rows] = found.logsumexp(-1)
        values = value[columns].repeat_interleave(query.shape[1] // value.shape[1], 1)
        output[rows] = torch.einsum("hqk,khd->qhd", found.softmax(-1), values)
    return output, normalizer, torch.zeros(2), torch.zeros(1)


def backward(gradient, query, key, value, output, normalizer, queries, keys, state, *, causal, scale):
    """As its backward pass, by the output and normaliser that it is given."""
    assert [len(values) for values in state] == [2, 1]
    to_query, to_key, to_value = map(torch.zeros_like, (query, key, value))
    repeats = query.shape[1] // key.shape[1]
    row_term = (gradient * output).sum(-1).T
    for rows, columns in parts(queries, keys):
        weights = (scores(query[rows], key[columns], causal, scale) - normalizer[:, rows, None]).exp()
        values, keys_of = (kind[columns].repeat_interleave(repeats, 1) for kind in (value, key))
        inner = torch.einsum("qhd,khd->hqk", gradient[rows], values) - row_term[:, rows, None]
        of_scores = weights * inner * scale
        to_query[rows] += torch.einsum("hqk,khd->qhd", of_scores, keys_of)
        summed = (len(values), key.shape[1], repeats, -1)
        to_key[columns] += torch.einsum("hqk,qhd->khd", of_scores, query[rows]).view(summed).sum(2)
        to_value[columns] += torch.einsum("hqk,qhd->khd", weights, gradient[rows]).view(summed).sum(2)
    return to_query, to_key, to_value


@pytest.fixture
def flash(monkeypatch):
    """Let the CPU take the way of CUDA, with the kernels' contract in plain products."""
    monkeypatch.setattr(fused_attention, "varlen_forward", forward)
    monkeypatch.setattr(fused_attention, "varlen_backward", backward)

    def attend(query, key, value, prompt_key, prompt_value, prompts, own, scale):
        groups = own.bounds(own.count // prompts.count)
        held = fused_attention.SharedPrompts(prompt_key, prompt_value, prompts.bounds(), groups)
        return flash_attend(query, key, value, own.bounds(), held, scale)

    return attend


def gradients(output, inputs):
    torch.manual_seed(1)
    return torch.autograd.grad(output, inputs, torch.randn_like(output), allow_unused=True)


def test_two_merged_calls_are_one_softmax_and_so_are_their_gradients(packed, flash):
    prompts, own, inputs = packed
    expected = attend_to_prefix(*inputs, prompts, own, SCALE)
    output = flash(*inputs, prompts, own, SCALE)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    for found, exact in zip(gradients(output, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def test_inside_sequences(packed, flash):
    _, own, (query, key, value, *_) = packed
    expected = attend_causally(query, key, value, own, SCALE)
    output = flash_attend(query, key, value, own.bounds(), None, SCALE)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    inputs = [query, key, value]
    for found, exact in zip(gradients(output, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def test_plain_products_are_the_oracle_of_both(packed):
    prompts, own, inputs = packed
    for attend in (
        lambda kernel: attend_to_prefix(*inputs, prompts, own, SCALE, kernel),
        lambda kernel: attend_causally(*inputs[:3], own, SCALE, kernel),
    ):
        fused, plain = attend("flash"), attend("plain")
        torch.testing.assert_close(plain, fused, rtol=0, atol=1e-12)
        for found, exact in zip(gradients(plain, inputs), gradients(fused, inputs), strict=True):
            assert (found is None) == (exact is None)
            if found is not None:
                torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(attend("flex").float(), fused.float(), rtol=0, atol=1e-5)


def test_flex_attention_says_that_a_cpu_has_no_gradients(packed):
    prompts, own, inputs = packed
    with pytest.raises(ConfigError, match=r"model\.attention=flex has no gradients on a CPU; choose auto"):
        attend_to_prefix(*inputs, prompts, own, SCALE, "flex")


def test_the_kernels_of_cuda_take_what_they_are_given(monkeypatch):
    """Types, shapes and the order of arguments, on tensors without data."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        cuda = torch.device("cuda")
        prompts, own = fused_attention.Sequences(torch.empty(3, device=cuda), 9), torch.empty(7, device=cuda)
        own, groups = (fused_attention.Sequences(bounds, 8) for bounds in (own, torch.empty(3, device=cuda)))
        shapes = [(25, 4), (25, 2), (25, 2), (14, 2), (14, 2)]
        query, key, value, prompt_key, prompt_value = (
            torch.empty(*shape, 16, dtype=torch.bfloat16, device=cuda) for shape in shapes
        )
        output, normalizer, *state = fused_attention.varlen_forward(
            query, key, value, own, own, causal=True, scale=SCALE
        )
        assert (output.shape, output.dtype, normalizer.shape) == (query.shape, query.dtype, (4, 25))
        output, normalizer, *_ = fused_attention.varlen_forward(
            query, prompt_key, prompt_value, groups, prompts, causal=False, scale=SCALE
        )
        assert (output.shape, normalizer.shape, normalizer.dtype) == (query.shape, (4, 25), torch.float32)
        found = fused_attention.varlen_backward(
            output, query, key, value, output, normalizer, own, own, state, causal=True, scale=SCALE
        )
        assert [gradient.shape for gradient in found] == [query.shape, key.shape, value.shape]


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "size", "chosen"),
    [
        ("auto", "cuda", torch.bfloat16, 128, "flash"),
        ("auto", "cuda", torch.float32, 128, "plain"),
        ("auto", "cuda", torch.bfloat16, 320, "plain"),
        ("auto", "cpu", torch.float32, 12, "flash"),
        ("plain", "cuda", torch.bfloat16, 128, "plain"),
        ("flex", "cuda", torch.float32, 128, "flex"),
    ],
)
def test_what_is_chosen(asked, device, dtype, size, chosen):
    assert fused_attention._chosen(asked, device, dtype, size) == chosen


def test_what_cannot_be_chosen(make_policy):
    with pytest.raises(ConfigError, match=r"model\.attention=flash takes bfloat16 or float16 .* not torch\.float32"):
        fused_attention._chosen("flash", "cuda", torch.float32, 64)
    with pytest.raises(ConfigError, match=r"model\.attention=fast is unknown: choose auto, flash, flex, plain"):
        make_policy(attention="fast")


def test_a_policy_attends_by_the_kernel_of_its_configuration(make_policy, make_batch, monkeypatch):
    asked = []
    monkeypatch.setattr(
        varlen_attention,
        "chosen_attention",
        lambda kernel, query: asked.append(kernel) or chosen_attention(kernel, query),
    )
    batch, logps = make_batch(2), {}
    for kernel in ("auto", "plain"):
        policy = make_policy(attention=kernel)
        completions = policy.encode_targets(batch)
        logps[kernel] = policy.per_token_logps(batch, completions)
        assert set(asked) == {kernel}
        asked.clear()
    torch.testing.assert_close(logps["plain"], logps["auto"], rtol=0, atol=1e-5)
