"""Draw tokens, and decode the completions that still run; both engines draw with it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from affectgpt_r1.engine.base import Decoded, SpecialTokens
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import Sampling

BLOCK = 128  # tokens whose weights are summed before the draw among blocks
FIXED_POINT = 2**35  # steps between 0 and the largest of the numbers that are added as integers


class Drawn(NamedTuple):
    """A token for each of ``m`` rows."""

    ids: Tensor  # (m,) int64
    logps: Tensor  # (m,) float32, under the whole distribution at the sampling temperature (1 if greedy)


class Head(Protocol):
    """Draws from hidden states in place of logits."""

    size: int  # V

    def draw(self, states: Tensor, sampling: Sampling, uniforms: Tensor | None, banned: Tensor) -> Drawn:
        """As :func:`draw_tokens`, from ``(m, D)`` states."""


def seeded_by_names(seed: int, names: Sequence[str]) -> torch.Generator:
    """Return a generator whose draws depend on a seed and the clips of a batch alone, on any device."""
    digest = hashlib.sha256(repr((seed, tuple(names))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def check_sampling(sampling: Sampling) -> None:
    """Raise a :class:`ConfigError` for settings that leave no token to draw."""
    allowed = {
        "temperature": (0 <= sampling.temperature < math.inf, "0 or more, and finite"),
        "top_p": (0 < sampling.top_p <= 1, "above 0 and at most 1"),
        "top_k": (sampling.top_k >= 0, "0 or more"),
        "min_p": (0 <= sampling.min_p <= 1, "between 0 and 1"),
        "max_completion_length": (sampling.max_completion_length >= 1, "at least 1"),
    }
    for key, (fits, range_) in allowed.items():
        if not fits:
            raise ConfigError(f"sampling.{key}={getattr(sampling, key)} must be {range_}")


def stop_string_test(tokenizer: Any, stops: Sequence[str]) -> Callable[[Tensor], Tensor] | None:
    """Return the test of which completions hold a stop string, for :func:`decode`'s ``ends``; None without strings."""
    if not stops:
        return None
    longest = max(len(stop.encode()) for stop in stops)  # a token has at least one byte

    def ends(ids: Tensor) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, -longest - 1 :].tolist(), skip_special_tokens=False)
        return torch.tensor([any(stop in text for stop in stops) for text in texts], device=ids.device)

    return ends


def filter_logits(logits: Tensor, *, top_k: int, top_p: float, min_p: float = 0.0) -> Tensor:
    """Set the logits ``(N, V)`` of tokens that ``top_k``, then ``top_p``, then ``min_p`` leave out to ``-inf``."""
    if top_k > 0:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1.0:
        # Nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751): a token stays if those before it, by falling
        # probability, have less than top_p. The most likely one has nothing before it.
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = cumulative_sum(probabilities) - probabilities
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    if min_p > 0.0:
        # Nguyen et al. 2024, arXiv 2407.01082: p >= min_p * max p.
        relative = (logits - logits.amax(-1, keepdim=True)).exp()
        logits = logits.masked_fill(relative < min_p, -torch.inf)
    return logits


def draw_tokens(
    logits: Tensor, sampling: Sampling, uniforms: Tensor | None = None, banned: Tensor | None = None
) -> Drawn:
    """Draw one token per row; the most likely one at temperature 0.

    Args:
        logits: ``(m, V)`` before the temperature.
        sampling: Temperature and filters.
        uniforms: ``(m,)`` float64 in [0, 1); greedy decoding needs none.
        banned: Tokens that are never drawn.
    """
    scaled = logits.float() / (sampling.temperature or 1.0)
    allowed = scaled if banned is None else scaled.index_fill(-1, banned, -torch.inf)
    top = allowed.amax(-1, keepdim=True)
    weights = (allowed - top).exp_()
    normalizer = top.squeeze(-1) + weights.sum(-1).log()
    # Log-probs are those before filters and bans, as the update computes them: log Z is over all tokens.
    if banned is not None and len(banned):
        normalizer = torch.logaddexp(normalizer, scaled[:, banned].logsumexp(-1))
    if sampling.temperature == 0:
        ids = allowed.argmax(-1)
    else:
        if uniforms is None:
            raise ValueError("drawing at a temperature above 0 needs random numbers")
        if sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0:
            kept = filter_logits(allowed, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)
            weights.masked_fill_(kept == -torch.inf, 0.0)
        ids = invert_distribution(weights, uniforms)
    return Drawn(ids, scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - normalizer)


def invert_distribution(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token ``(m,)`` per row of weights ``(m, V)``, by ``(m,)`` float64 in [0, 1)."""
    # Inverse transform sampling: the first token whose cumulative probability exceeds u. First among the sums of
    # blocks, then in the block that u falls into: the cumulative sums, in double precision, are over few numbers.
    size = weights.shape[-1]
    full = size // BLOCK * BLOCK  # tokens in full blocks
    sums = weights[:, :full].view(len(weights), -1, BLOCK).sum(-1)
    if full < size:
        sums = torch.cat([sums, weights[:, full:].sum(-1, keepdim=True)], -1)
    block, inside = invert_cumulative(sums.double(), uniforms)
    members = block.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=weights.device)
    chosen = weights.gather(-1, members.clamp(max=size - 1)).masked_fill_(members >= size, 0.0)
    token, _ = invert_cumulative(chosen.double(), inside)
    return block * BLOCK + token


def invert_cumulative(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index that each number falls into, and where between that index's bounds it falls.

    Args:
        weights: ``(m, n)``, not negative, not all zero in any row. An index of weight 0 is never returned.
        uniforms: ``(m,)`` in [0, 1).

    Returns:
        ``(m,)`` int64, and ``(m,)`` in [0, 1], which is uniform again.
    """
    cumulative = cumulative_sum(weights)
    target = (uniforms * cumulative[:, -1]).unsqueeze(-1)
    # Rounding may put the target beyond the last weight above 0.
    last = (weights > 0).long().mul(torch.arange(weights.shape[-1], device=weights.device)).amax(-1, keepdim=True)
    index = torch.searchsorted(cumulative, target, right=True).minimum(last)
    weight = weights.gather(-1, index)
    inside = (target - (cumulative.gather(-1, index) - weight)) / weight
    return index.squeeze(-1), inside.squeeze(-1).clamp(0.0, 1.0)


def cumulative_sum(values: Tensor) -> Tensor:
    """Return ``values.cumsum(-1)`` of numbers that are not negative, also where accelerators must be deterministic."""
    # torch has no deterministic cumulative sum of floating-point numbers on CUDA: under trainer.deterministic=true it
    # raises. There the numbers are added as integers, exactly, in whatever order.
    if values.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
        return values.cumsum(-1)
    return integer_cumulative_sum(values)


def integer_cumulative_sum(values: Tensor) -> Tensor:
    """Return the cumulative sum in double precision, over multiples of ``max / FIXED_POINT``."""
    # Sums of up to 2^17 numbers fit the 53 bits of a double; they never fall, and do not grow where a number is 0.
    largest = values.double().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    counts = (values.double() / largest * FIXED_POINT).round().long()
    return counts.cumsum(-1).double() * (largest / FIXED_POINT)


def draw_uniforms(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw float64 numbers in [0, 1) for a device, on the generator's: by default the CPU, whose numbers all share."""
    source = torch.device("cpu") if generator is None else generator.device
    return torch.rand(tuple(shape), dtype=torch.float64, generator=generator, device=source).to(device)


def decode(
    first: Tensor,
    advance: Callable[[Tensor, Tensor], Tensor],
    *,
    sampling: Sampling,
    tokens: SpecialTokens,
    generator: torch.Generator | None = None,
    ends: Callable[[Tensor], Tensor] | None = None,
    head: Head | None = None,
) -> Decoded:
    """Decode until every row has drawn a stop token or the limit is reached.

    Args:
        first: ``(N, V)`` logits after the prompt, or ``(N, D)`` states for ``head``.
        advance: Takes the ``(m,)`` newest tokens and the ``(m,)`` rows that still run; returns logits or states.
        sampling: How tokens are drawn.
        tokens: Which end a completion and which are never drawn; of these, some may be beyond the vocabulary.
        generator: Source of random numbers.
        ends: Takes ``(m, c)`` tokens so far; returns which of the ``m`` rows end here, stop tokens aside.
        head: Draws from states; None where there are logits.
    """
    check_sampling(sampling)
    count, device, limit = len(first), first.device, sampling.max_completion_length
    stops = torch.tensor(list(tokens.stop_ids), device=device)
    size, draw = (first.shape[-1], draw_tokens) if head is None else (head.size, head.draw)
    banned = torch.tensor([token for token in tokens.banned_ids if token < size], dtype=torch.long, device=device)
    ids = torch.full((count, limit), tokens.pad_id, device=device)
    mask, logps = torch.zeros(2, count, limit, device=device)
    rows, outputs = torch.arange(count, device=device), first
    for step in range(limit):
        uniforms = None
        if sampling.temperature:
            # A number for every row, also for those that have ended: no row's tokens depend on another's length.
            uniforms = draw_uniforms((count,), generator, device)[rows]
        drawn = draw(outputs, sampling, uniforms, banned)
        ids[rows, step], logps[rows, step], mask[rows, step] = drawn.ids, drawn.logps, 1.0
        ended = torch.isin(drawn.ids, stops)
        ended = ended if ends is None else ended | ends(ids[rows, : step + 1])
        running = (~ended).nonzero().squeeze(-1)  # the only time per step that the host waits for an accelerator
        rows, newest = rows[running], drawn.ids[running]
        if len(rows) == 0 or step + 1 == limit:
            break
        outputs = advance(newest, rows)
    truncated = torch.zeros(count, dtype=torch.bool, device=device).index_fill_(0, rows, True)
    return Decoded(ids[:, : step + 1], mask[:, : step + 1], logps[:, : step + 1], truncated)


def cut_rows(decoded: Decoded, room: Tensor, pad_id: int) -> Decoded:
    """Cut completions to the ``(N,)`` most tokens in ``room``; those that are longer count as truncated."""
    kept = torch.arange(decoded.ids.shape[1], device=room.device) < room[:, None]  # (N, C)
    return Decoded(
        decoded.ids.masked_fill(~kept, pad_id),
        decoded.mask * kept,
        decoded.per_token_logps * kept,
        decoded.truncated | (decoded.mask.sum(1) > room),
    )
