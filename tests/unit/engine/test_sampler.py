"""Filters by hand, the decoding loop on scripted logits, and frequencies of real draws."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.engine.base import SpecialTokens
from affectgpt_r1.engine.sampler import decode, draw_tokens, filter_logits, invert_distribution
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import Sampling

PROBABILITIES = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2])
PAD, STOP, OTHER_STOP, BANNED = 0, 1, 2, 3
VOCABULARY = 8


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [0, 1, 2, 3, 4]),
        (1, 1.0, [1]),
        (3, 1.0, [1, 3, 4]),
        (99, 1.0, [0, 1, 2, 3, 4]),
        (0, 0.3, [1]),  # the most likely token always stays
        (0, 0.41, [1, 3]),
        (0, 0.66, [1, 3, 4]),
        (0, 0.86, [0, 1, 3, 4]),
        (2, 0.6, [1]),  # among the two kept: 0.4 / 0.65 = 0.615 is enough
        (2, 0.7, [1, 3]),
    ],
)
def test_filters_by_hand(top_k, top_p, expected):
    assert kept(filter_logits(PROBABILITIES.log()[None], top_k=top_k, top_p=top_p)) == [expected]


@pytest.mark.parametrize(
    ("min_p", "expected"), [(0.0, [0, 1, 2, 3, 4]), (0.2, [0, 1, 3, 4]), (0.6, [1, 3]), (1.0, [1])]
)
def test_least_probability_relative_to_the_most_likely(min_p, expected):
    assert kept(filter_logits(PROBABILITIES.log()[None], top_k=0, top_p=1.0, min_p=min_p)) == [expected]


@pytest.mark.parametrize("size", [3, 127, 128, 129, 1000])
def test_inverse_distribution_is_that_of_one_cumulative_sum(size):
    weights = torch.rand(500, size, generator=torch.Generator().manual_seed(size))
    weights[weights < 0.3] = 0.0
    weights[:, size // 2] = 0.5
    uniforms = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cumulative = weights.double().cumsum(-1)
    target = uniforms.unsqueeze(-1) * cumulative[:, -1:]
    expected = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    drawn = invert_distribution(weights, uniforms)
    assert (drawn != expected).float().mean() < 0.01  # block sums are single precision
    assert (weights.gather(-1, drawn.unsqueeze(-1)) > 0).all()


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(uniform):
    weights = torch.zeros(1, 300)
    weights[0, [5, 200]] = 1.0
    drawn = invert_distribution(weights, torch.tensor([uniform], dtype=torch.float64))
    assert drawn.item() == (5 if uniform == 0.0 else 200)


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.2},
        {"top_k": -1},
        {"min_p": 1.5},
        {"max_completion_length": 0},
    ],
)
def test_settings_that_leave_no_token_are_refused(setting):
    (key,) = setting
    with pytest.raises(ConfigError, match=rf"sampling\.{key}="):
        decode(torch.zeros(1, 4), None, sampling=Sampling(**setting), tokens=SpecialTokens([1], [], 0))


def test_draws_without_random_numbers_are_refused():
    with pytest.raises(ValueError, match="random numbers"):
        draw_tokens(torch.zeros(1, 4), Sampling())


def test_rows_that_finish_leave_the_others_alone():
    logits = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(1))

    def ids(stop_ids: list[int]) -> torch.Tensor:
        return decode(
            logits,
            lambda drawn, running: logits[running],
            sampling=Sampling(max_completion_length=8),
            tokens=SpecialTokens(stop_ids, [], PAD),
            generator=torch.Generator().manual_seed(0),
        )

    free, stopping = ids([]), ids([STOP])
    kept_tokens = stopping.mask.bool()
    assert 0 < kept_tokens.sum() < free.mask.sum()
    assert torch.equal(free.ids[:, : kept_tokens.shape[1]][kept_tokens], stopping.ids[kept_tokens])


def test_filters_leave_the_kept_logits_alone():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    filtered = filter_logits(logits, top_k=5, top_p=0.9)
    assert torch.equal(filtered[filtered.isfinite()], logits[filtered.isfinite()])


def test_greedy_takes_the_most_likely_token():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.0]])
    assert draw_tokens(logits, Sampling(temperature=0.0)).ids.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), PROBABILITIES),
        (Sampling(temperature=0.5), PROBABILITIES**2 / (PROBABILITIES**2).sum()),
        (Sampling(top_k=3), torch.tensor([0.0, 0.4, 0.0, 0.25, 0.2]) / 0.85),
        (Sampling(top_p=0.41), torch.tensor([0.0, 0.4, 0.0, 0.25, 0.0]) / 0.65),
    ],
)
def test_frequencies_of_twenty_thousand_draws(sampling, expected):
    count = 20_000
    logits = PROBABILITIES.log().expand(count, -1)
    uniforms = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    drawn = draw_tokens(logits, sampling, uniforms).ids
    frequencies = torch.bincount(drawn, minlength=5) / count
    sigma = (expected * (1 - expected) / count).sqrt()
    assert (frequencies[expected == 0] == 0).all()
    assert ((frequencies - expected).abs() <= 3 * sigma).all()


def script(rows: list[list[int]]) -> tuple[torch.Tensor, object, list[tuple[list[int], list[int]]]]:
    """Logits that make row ``n`` draw ``rows[n][step]``; every call of ``advance`` is kept."""
    steps = torch.nn.functional.one_hot(torch.tensor(rows), VOCABULARY).float().transpose(0, 1) * 10
    calls: list[tuple[list[int], list[int]]] = []

    def advance(drawn: torch.Tensor, running: torch.Tensor) -> torch.Tensor:
        calls.append((drawn.tolist(), running.tolist()))
        return steps[len(calls)][running]

    return steps[0], advance, calls


def run(rows, **changes):
    first, advance, calls = script(rows)
    options = {
        "sampling": Sampling(temperature=0.0, max_completion_length=4),
        "tokens": SpecialTokens([STOP, OTHER_STOP], [BANNED], PAD),
    }
    return decode(first, advance, **{**options, **changes}), calls


def test_stop_mask_and_truncation():
    decoded, calls = run([[5, STOP, 6, 6], [4, 4, 4, 4], [4, 4, 4, OTHER_STOP]])
    assert decoded.ids.tolist() == [[5, STOP, PAD, PAD], [4, 4, 4, 4], [4, 4, 4, OTHER_STOP]]
    assert decoded.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert decoded.truncated.tolist() == [False, True, False]
    # Finished rows are not computed further, and no pass follows the last token.
    assert calls == [([5, 4, 4], [0, 1, 2]), ([4, 4], [1, 2]), ([4, 4], [1, 2])]


def test_decoding_ends_when_every_row_has_stopped():
    decoded, calls = run([[STOP, 5, 5, 5], [4, OTHER_STOP, 5, 5]])
    assert decoded.ids.shape == (2, 2)
    assert len(calls) == 1
    assert not decoded.truncated.any()


def test_log_probs_are_those_of_the_unfiltered_distribution():
    logits = torch.randn(5, VOCABULARY, generator=torch.Generator().manual_seed(3))
    sampling = Sampling(temperature=0.7, top_k=2, top_p=0.8, max_completion_length=1)
    decoded = decode(
        logits,
        lambda drawn, running: logits[running],
        sampling=sampling,
        tokens=SpecialTokens([STOP], [BANNED], PAD),
        generator=torch.Generator().manual_seed(0),
    )
    expected = torch.log_softmax(logits / 0.7, -1).gather(1, decoded.ids)
    torch.testing.assert_close(decoded.per_token_logps, expected)


def test_log_probs_after_the_stop_are_zero():
    decoded, _ = run([[5, STOP, 6, 6], [4, 4, 4, 4]])
    assert decoded.per_token_logps[0, 2:].tolist() == [0.0, 0.0]
    assert (decoded.per_token_logps[0, :2] < 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_tokens_are_never_drawn(temperature):
    logits = torch.zeros(2_000, VOCABULARY)
    logits[:, BANNED] = 20.0
    decoded = decode(
        logits,
        lambda drawn, running: logits[running],
        sampling=Sampling(temperature=temperature, max_completion_length=3),
        tokens=SpecialTokens([STOP], [BANNED], PAD),
        generator=torch.Generator().manual_seed(0),
    )
    assert not (decoded.ids == BANNED).any()


def test_same_generator_same_tokens():
    logits = torch.zeros(64, VOCABULARY)

    def ids(seed: int) -> torch.Tensor:
        return decode(
            logits,
            lambda drawn, running: logits[running],
            sampling=Sampling(max_completion_length=5),
            tokens=SpecialTokens([STOP], [], PAD),
            generator=torch.Generator().manual_seed(seed),
        ).ids

    assert torch.equal(ids(1), ids(1))
    assert not torch.equal(ids(1), ids(2))
