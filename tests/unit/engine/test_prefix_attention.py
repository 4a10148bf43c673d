"""Prefix attention against one softmax over prompt and completion, written out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.engine.prefix_attention import PrefixAttention, packed_attention_forward
from affectgpt_r1.engine.varlen_attention import PackedLengths
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import build_language_model

CPU = torch.device("cpu")


def written_out(query, key, value, prompt_lengths, completion_lengths, num_generations, scale):
    """Every token's softmax over the tokens that it may see, one token at a time."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    starts, place = [], 0
    for length in [*prompt_lengths, *completion_lengths]:
        starts.append(place)
        place += length
    rows = []
    for number, length in enumerate([*prompt_lengths, *completion_lengths]):
        own = number - len(prompt_lengths)
        for step in range(length):
            seen = list(range(starts[number], starts[number] + step + 1))
            if own >= 0:
                prompt = own // num_generations
                seen = list(range(starts[prompt], starts[prompt] + prompt_lengths[prompt])) + seen
            scores = torch.einsum("hd,khd->hk", query[starts[number] + step], key[seen]) * scale
            rows.append(torch.einsum("hk,khd->hd", scores.softmax(-1), value[seen]))
    return torch.stack(rows)


def layouts():
    """Prompt lengths, ``G`` and completion lengths, some of them 0 (a completion of one token feeds none)."""

    @st.composite
    def draw_layout(draw):
        prompts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
        num_generations = draw(st.integers(1, 3))
        count = len(prompts) * num_generations
        completions = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count).filter(any))
        return prompts, num_generations, completions

    return draw_layout()


def random_states(total, heads, key_heads, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(total, one, 8, generator=generator, dtype=dtype).requires_grad_()
        for one in (heads, key_heads, key_heads)
    ]


def check(layout, heads, key_heads, dtype, tolerance, *, prefilled=False):
    prompts, num_generations, completions = layout
    states = random_states(sum(prompts) + sum(completions), heads, key_heads, dtype, seed=len(prompts))
    expected = written_out(*states, prompts, completions, num_generations, 0.5)
    row = PrefixAttention(PackedLengths(prompts, CPU), PackedLengths(completions, CPU))
    if prefilled:
        first = PrefixAttention(row.prompts, None, keep=True)
        at = sum(prompts)
        before = first.attend(0, *(one[:at] for one in states), 0.5)
        row = PrefixAttention(row.prompts, row.completions, prefilled=True, cache=first.cache)
        result = torch.cat([before, row.attend(0, *(one[at:] for one in states), 0.5)])
    else:
        result = row.attend(0, *states, 0.5)
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=0)
    weights = torch.randn(expected.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        torch.autograd.grad((result * weights).sum(), states),
        torch.autograd.grad((expected * weights).sum(), states),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=0)


@given(layout=layouts(), heads=st.sampled_from([(2, 2), (4, 2), (4, 1)]), prefilled=st.booleans())
@settings(max_examples=25)
def test_one_softmax_over_prompt_and_completion(layout, heads, prefilled):
    check(layout, *heads, torch.float64, 1e-11, prefilled=prefilled)


@pytest.mark.parametrize("layout", [([7, 7], 4, [5] * 8), ([3, 9], 2, [1, 6, 0, 4])])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-11)])
def test_the_fused_and_the_plain_kernel(monkeypatch, layout, plain, dtype, tolerance):
    if plain:
        monkeypatch.setattr("affectgpt_r1.engine.varlen_attention.chosen_attention", lambda *_: "plain")
    check(layout, 4, 2, dtype, tolerance)


def test_what_it_cannot_compute_is_an_error():
    attention = PrefixAttention(PackedLengths([2], CPU), None)
    states = torch.zeros(1, 2, 2, 4)
    layer = SimpleNamespace(layer_idx=0)
    options = {
        r"share_prefix=false": {"dropout": 0.1},
        "window of 8": {"sliding_window": 8},
        "sinks": {"s_aux": torch.zeros(2)},
    }
    for message, option in options.items():
        with pytest.raises(ConfigError, match=message):
            packed_attention_forward(layer, states, states, states, packed_attention=attention, scaling=1.0, **option)


@pytest.mark.parametrize(
    ("family", "named"),
    [
        ({"model_type": "gemma2", "head_dim": 8}, "final_logit_softcapping=30.0, attn_logit_softcapping=50.0"),
        ({"model_type": "granite", "logits_scaling": 8.0}, r"logits_scaling=8\.0"),
        ({"model_type": "cohere"}, r"logit_scale=0\.0625"),
        ({"model_type": "qwen3_next", "head_dim": 8}, "linear_attention"),
        ({"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}, "the layout of GPT2LMHeadModel"),
    ],
)
def test_a_family_that_computes_more_is_refused(family, named):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    with pytest.raises(ConfigError, match=named):
        build_language_model(20, {"num_hidden_layers": 4, **sizes, **family})


def test_a_family_whose_scales_do_nothing_is_taken():
    family = {"model_type": "granite", "logits_scaling": 1.0, "hidden_size": 16, "num_attention_heads": 2}
    build_language_model(20, {**family, "num_key_value_heads": 1, "intermediate_size": 16, "num_hidden_layers": 1})


def test_padding_and_back():
    lengths = PackedLengths([2, 0, 3], CPU)
    row = torch.arange(1.0, 6.0).view(5, 1)
    assert lengths.pad_with_zeros(row)[..., 0].tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]
    assert torch.equal(lengths.pack(lengths.pad(row)), row)
    assert lengths.positions.tolist() == [0, 1, 0, 1, 2]
    assert lengths.sequences.tolist() == [0, 0, 2, 2, 2]
