"""Draws from chunks of the vocabulary against draws from all logits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from affectgpt_r1.engine.base import SpecialTokens
from affectgpt_r1.engine.lm_head_sampling import CHUNK, ChunkedLMHead, chunked_lm_head
from affectgpt_r1.engine.sampler import decode, draw_tokens
from affectgpt_r1.types import Sampling

NONE = torch.zeros(0, dtype=torch.long)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_head(size: int, width: int = 24) -> torch.Tensor:
    return torch.randn(size, width, generator=generator(size))


def whole_distribution(states, weight, temperature, banned) -> torch.Tensor:
    logits = (states.double() @ weight.double().T) / temperature
    return logits.index_fill(-1, banned, -torch.inf).softmax(-1)


@pytest.mark.parametrize("size", [5, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 70])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_token_is_that_of_one_cumulative_sum(size, temperature):
    weight, states = random_head(size), torch.randn(400, 24, generator=generator(1)) * 0.5
    banned = torch.tensor([0, size // 2, size - 1])
    uniforms = torch.rand(400, dtype=torch.float64, generator=generator(2))
    drawn = ChunkedLMHead(weight).draw(states, Sampling(temperature=temperature), uniforms, banned)
    cumulative = whole_distribution(states, weight, temperature, banned).cumsum(-1)
    expected = torch.searchsorted(cumulative, uniforms.unsqueeze(-1), right=True).squeeze(-1)
    assert (drawn.ids != expected).float().mean() < 0.01
    assert not torch.isin(drawn.ids, banned).any()
    assert drawn.ids.max() < size


@pytest.mark.parametrize("size", [40, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
def test_log_probs_are_those_of_the_full_vocabulary(size, scale):
    weight, states = random_head(size), torch.randn(60, 24, generator=generator(3)) * scale
    sampling = Sampling(temperature=0.7)
    uniforms = torch.rand(60, dtype=torch.float64, generator=generator(4))
    drawn = ChunkedLMHead(weight).draw(states, sampling, uniforms, torch.tensor([1, size - 1]))
    expected = ((states.double() @ weight.double().T) / 0.7).log_softmax(-1).gather(-1, drawn.ids.unsqueeze(-1))
    torch.testing.assert_close(drawn.logps.double(), expected.squeeze(-1), atol=1e-5 * max(1.0, 4 * scale), rtol=0)


def test_frequencies_of_forty_thousand_draws():
    weight, count, banned = random_head(CHUNK + 60), 40_000, torch.tensor([3, CHUNK + 2])
    state = torch.randn(1, 24, generator=generator(5)) * 0.3
    uniforms = torch.rand(count, dtype=torch.float64, generator=generator(6))
    drawn = ChunkedLMHead(weight).draw(state.expand(count, -1), Sampling(), uniforms, banned).ids
    expected = whole_distribution(state, weight, 1.0, banned).squeeze(0) * count
    observed = torch.bincount(drawn, minlength=len(weight))
    assert (observed[banned] == 0).all()
    common = expected > 20
    assert expected[common].sum() > 0.9 * count
    degrees = int(common.sum())
    statistic = ((observed[common] - expected[common]) ** 2 / expected[common]).sum().item()
    assert abs(statistic - degrees) < 4 * (2 * degrees) ** 0.5  # chi-square: mean k, variance 2 k


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2.0**-53])
def test_a_chunk_of_banned_tokens_that_outweigh_all_others(uniform):
    weight = torch.zeros(CHUNK + 2, 4)
    weight[CHUNK:] = 100.0
    states, uniforms = torch.ones(2, 4), torch.full((2,), uniform, dtype=torch.float64)
    drawn = ChunkedLMHead(weight).draw(states, Sampling(), uniforms, torch.tensor([CHUNK, CHUNK + 1]))
    assert (drawn.ids < CHUNK).all()
    assert drawn.ids[0].item() == {0.0: 0, 0.5: CHUNK // 2}.get(uniform, CHUNK - 1)
    torch.testing.assert_close(drawn.logps, torch.full((2,), -400.0 - torch.tensor(2.0).log().item()))


def test_fewer_rows_draw_what_they_would_among_all():
    weight, states = random_head(CHUNK + 9), torch.randn(6, 24, generator=generator(7))
    uniforms = torch.rand(6, dtype=torch.float64, generator=generator(8))
    head = ChunkedLMHead(weight)
    every = head.draw(states, Sampling(), uniforms, NONE)
    rows = torch.tensor([1, 4])
    some = head.draw(states[rows], Sampling(), uniforms[rows], NONE)
    assert torch.equal(some.ids, every.ids[rows])
    torch.testing.assert_close(some.logps, every.logps[rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.0), Sampling(top_k=3), Sampling(top_p=0.5), Sampling(min_p=0.2)]
)
def test_greedy_and_filtered_draws_are_those_from_logits(sampling):
    weight, states = random_head(700), torch.randn(9, 24, generator=generator(9))
    uniforms, banned = torch.rand(9, dtype=torch.float64, generator=generator(10)), torch.tensor([4])
    drawn = ChunkedLMHead(weight).draw(states, sampling, uniforms, banned)
    expected = draw_tokens(states @ weight.T, sampling, uniforms, banned)
    assert torch.equal(drawn.ids, expected.ids)
    assert torch.equal(drawn.logps, expected.logps)


def test_draws_without_random_numbers_are_refused():
    with pytest.raises(ValueError, match="random numbers"):
        ChunkedLMHead(random_head(8)).draw(torch.zeros(1, 24), Sampling(), None, NONE)


def test_a_rollout_draws_the_same_tokens_from_states_as_from_logits():
    weight = random_head(900)
    states = torch.randn(8, 24, generator=generator(11))
    options = {
        "sampling": Sampling(max_completion_length=7),
        "tokens": SpecialTokens(list(range(0, 900, 3)), [5, 899, 4_000], 0),
    }
    chunked = decode(
        states,
        lambda newest, rows: states[rows].roll(1, -1),
        **options,
        generator=generator(12),
        head=ChunkedLMHead(weight),
    )
    whole = decode(
        states @ weight.T, lambda newest, rows: states[rows].roll(1, -1) @ weight.T, **options, generator=generator(12)
    )
    assert 0 < chunked.mask.sum() < chunked.mask.numel()
    assert torch.equal(chunked.ids, whole.ids)
    torch.testing.assert_close(chunked.per_token_logps, whole.per_token_logps, atol=1e-5, rtol=0)


def test_other_heads_give_logits():
    assert chunked_lm_head(SimpleNamespace(lm_head=nn.Linear(4, 9, bias=True))) is None
    assert chunked_lm_head(SimpleNamespace(lm_head=nn.Linear(4, 9, bias=False).bfloat16())) is None
    assert chunked_lm_head(SimpleNamespace(lm_head=nn.Sequential(nn.Linear(4, 9, bias=False)))) is None
    assert chunked_lm_head(SimpleNamespace(lm_head=nn.Linear(4, 9, bias=False))).size == 9


def test_no_log_probability_of_a_sure_token_is_above_zero():
    weight, states = random_head(600, 256), 2 * torch.randn(2000, 256, generator=generator(13))
    uniforms = torch.rand(2000, dtype=torch.float64, generator=generator(14))
    logps = ChunkedLMHead(weight).draw(states, Sampling(), uniforms, NONE).logps
    assert (logps > -1e-3).sum() > 1000
    assert logps.max() <= 0
