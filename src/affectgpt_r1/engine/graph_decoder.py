"""Decode a rollout by replaying one captured step on CUDA: layers, head and sampling, without the host in between.

For a token of every row a GPU has to read the weights once, 3 ms of a 7B model; launching the kernels one by one takes
the host several times that. A CUDA graph launches them at once. What it reads and writes has fixed addresses: keys and
values, the newest tokens, their place, who still runs. Uniform numbers are drawn beforehand on the CPU, so that CPU and
GPU draw the same tokens. Elsewhere the same steps run without a graph, which is how they are tested.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache as once
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from affectgpt_r1.engine.base import Decoded, SpecialTokens
from affectgpt_r1.engine.flash_attention import attention_forward
from affectgpt_r1.engine.fused_attention import AttentionKernel, Sequences, chosen_attention, varlen_forward
from affectgpt_r1.engine.fused_decoder import FusedDecoder, has_fused_layers, trained_bytes
from affectgpt_r1.engine.precision import exact_matmul, head_logits
from affectgpt_r1.engine.sampler import check_sampling, draw_tokens, draw_uniforms
from affectgpt_r1.engine.varlen_attention import PackedLengths
from affectgpt_r1.types import Sampling

log = logging.getLogger(__name__)

SMALLEST_BUCKET = 64  # tokens of a completion that a step's attention reads; the next bucket has twice as many
STEPS_BETWEEN_LOOKS = 8  # of the host, at whether any row still runs
LOGIT_COPIES = 4  # in single precision, while tokens are drawn


class Keys(NamedTuple):
    """Keys and values that ``n`` lists of queries attend to."""

    key: Tensor  # (B, heads, L, d), with B * heads = n
    value: Tensor
    lengths: Tensor  # (n,) int32, of L
    bias: Tensor  # (B or 1, 1, 1, L), the least number beyond the length
    queries: Sequences  # for FlashAttention, as are the next
    keys: Sequences


class StaticKVCache:
    """Keys and values of ``B`` prompts and ``N = B * G`` completions, in buffers that stay where they are.

    Args:
        prompts: Lengths of the prompts.
        cache: The prompts' ``(k, v)`` by layer, each ``(prompt tokens, KV heads, d)``.
        heads: Of the queries.
        num_generations: ``G``.
        max_length: Most tokens of a completion.
        dtype: Of keys and values.
        kernel: See :func:`~affectgpt_r1.engine.fused_attention.chosen_attention`.
    """

    def __init__(
        self,
        prompts: PackedLengths,
        cache: Mapping[int, tuple[Tensor, Tensor]],
        heads: int,
        num_generations: int,
        max_length: int,
        dtype: torch.dtype,
        kernel: AttentionKernel,
    ) -> None:
        first = next(iter(cache.values()))[0]
        device, (key_heads, size) = first.device, first.shape[1:]
        self._kernel = chosen_attention(kernel, torch.empty(1, 1, size, dtype=dtype, device=device))
        self._reads_lengths = self._kernel == "flash" and device.type != "cpu"
        self.bucket = max_length if self._reads_lengths else min(SMALLEST_BUCKET, max_length)
        self.max_length = max_length
        self.place = torch.zeros(1, dtype=torch.long, device=device)  # of the newest token in its completion
        self._shape = (prompts.count, num_generations, key_heads, heads // key_heads)
        self._prompts = {
            layer: (_heads_first(prompts.pad(key), dtype), _heads_first(prompts.pad(value), dtype))
            for layer, (key, value) in cache.items()
        }  # (B, KV heads, P, d)
        own = (prompts.count, key_heads, num_generations, max_length, size)
        self._own = {layer: torch.zeros(2, *own, dtype=dtype, device=device) for layer in cache}
        rows = prompts.count * key_heads
        self._prompt_lengths = prompts.seqlens.int().repeat_interleave(key_heads)
        self._own_lengths = torch.ones(rows * num_generations, dtype=torch.int32, device=device)
        # In the keys' type: the CPU's kernel misreads another.
        bias = prompts.padding_bias(dtype)
        no_bias = torch.zeros(prompts.count, 1, 1, prompts.max_seqlen, dtype=dtype, device=device)
        self._prompt_bias = no_bias if bias is None else bias
        self._own_bias = self._prompt_bias[:1]
        self._to_prompt = (
            _equal_sequences(rows, num_generations * heads // key_heads, device),
            _equal_sequences(rows, prompts.max_seqlen, device),
        )
        self._to_self = (
            _equal_sequences(rows * num_generations, heads // key_heads, device),
            _equal_sequences(rows * num_generations, max_length, device),
        )

    def begin(self) -> None:
        """Let the next pass read the completions' own keys up to :attr:`place`."""
        self._own_lengths.copy_(self.place.expand_as(self._own_lengths)).add_(1)
        if not self._reads_lengths:
            later = torch.arange(self.bucket, device=self.place.device) > self.place
            bias = self._prompt_bias.new_zeros(1, 1, 1, self.bucket)
            self._own_bias = bias.masked_fill_(later, torch.finfo(bias.dtype).min)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Add the newest keys and values ``(N, KV heads, d)``; return the attention to all so far, ``(N, H, d)``."""
        prompts, group, key_heads, repeats = self._shape
        # One order of queries for both parts: by prompt, key head, completion, and query head of the key head. Then a
        # prompt's keys are read once for its group, and no key is repeated for the heads that share it.
        grouped = query.view(prompts, group, key_heads, repeats, -1).transpose(1, 2).contiguous()
        for buffer, new in zip(self._own[layer], (key, value), strict=True):
            buffer.index_copy_(3, self.place, new.view(prompts, group, key_heads, 1, -1).transpose(1, 2))
        own_key, own_value = (buffer[..., : self.bucket, :].flatten(1, 2) for buffer in self._own[layer])
        shared = Keys(*self._prompts[layer], self._prompt_lengths, self._prompt_bias, *self._to_prompt)
        own = Keys(own_key, own_value, self._own_lengths, self._own_bias, *self._to_self)
        attend = _in_one_softmax if self._kernel == "plain" else self._merged
        attended = attend(grouped, shared, own, scale).reshape(grouped.shape).transpose(1, 2)
        return attended.to(query.dtype, memory_format=torch.contiguous_format).reshape(query.shape)

    def _merged(self, grouped: Tensor, shared: Keys, own: Keys, scale: float) -> Tensor:
        to_prompt, prompt_normalizer = self._part(grouped.flatten(2, 3), shared, scale)
        to_self, normalizer = self._part(grouped.flatten(1, 2), own, scale)
        # exp(L1 - L) with L = logaddexp(L1, L2) is the logistic function of L1 - L2 (see flash_attention).
        weight = torch.sigmoid(prompt_normalizer.reshape(normalizer.shape) - normalizer).unsqueeze(-1)
        return (to_prompt.reshape(to_self.shape) * weight).addcmul_(to_self, 1 - weight)

    def _part(self, query: Tensor, keys: Keys, scale: float) -> tuple[Tensor, Tensor]:
        """Return output ``(B, heads, q, d)`` and log-normaliser ``(B, heads, q)``."""
        if self._reads_lengths:
            rows, key, value = (heads.flatten(0, 2).unsqueeze(1) for heads in (query, keys.key, keys.value))
            output, normalizer, *_ = varlen_forward(
                rows, key, value, keys.queries, keys.keys, causal=False, scale=scale, key_lengths=keys.lengths
            )
            return output.view(query.shape), normalizer.view(query.shape[:-1])
        if self._kernel == "flex":
            bias = keys.bias.expand(len(query), -1, -1, -1)

            def masked(score: Tensor, row: Tensor, head: Tensor, place: Tensor, at: Tensor) -> Tensor:
                return score + bias[row, 0, 0, at]

            attend: Any = flex_attention if query.device.type == "cpu" else _compiled_flex()
            flexed: tuple[Tensor, Tensor] = attend(
                query, keys.key, keys.value, score_mod=masked, scale=scale, return_lse=True
            )
            return flexed
        return attention_forward(query, keys.key, keys.value, scale=scale, causal=False, bias=keys.bias)


def _in_one_softmax(grouped: Tensor, shared: Keys, own: Keys, scale: float) -> Tensor:
    """Attend to prompt and own keys by plain products, scores in at least single precision."""
    parts = (grouped.flatten(2, 3), shared), (grouped.flatten(1, 2), own)
    scores = [exact_matmul(query, keys.key.transpose(-1, -2)).mul_(scale).add_(keys.bias) for query, keys in parts]
    joined = torch.cat([score.view(*grouped.shape[:-1], -1) for score in scores], -1)
    weights = torch.split(joined.softmax(-1).to(grouped.dtype), [score.shape[-1] for score in scores], -1)
    from_prompt = weights[0].flatten(2, 3) @ shared.value
    from_self = weights[1].flatten(1, 2) @ own.value
    result: Tensor = from_prompt.view(grouped.shape) + from_self.view(grouped.shape)
    return result


def _heads_first(padded: Tensor, dtype: torch.dtype) -> Tensor:
    return padded.detach().transpose(1, 2).to(dtype, memory_format=torch.contiguous_format).contiguous()


def _equal_sequences(count: int, length: int, device: torch.device) -> Sequences:
    return Sequences(torch.arange(count + 1, dtype=torch.int32, device=device) * length, length)


@once
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


class GraphDecoder:
    """Draws completions of prefilled prompts, without gradient.

    Args:
        model: A causal language model that :func:`~affectgpt_r1.engine.fused_decoder.has_fused_layers` accepts.
        states: ``(B, D)`` after the last layer, at each prompt's end.
        prompts: Lengths of the prompts.
        cache: The prompts' ``(k, v)`` by layer.
        num_generations: ``G``.
        sampling: How tokens are drawn.
        tokens: Which end a completion and which are never drawn.

    Attributes:
        captures: Whether to capture a step as a CUDA graph.
    """

    def __init__(
        self,
        model: Any,
        states: Tensor,
        prompts: PackedLengths,
        cache: Mapping[int, tuple[Tensor, Tensor]],
        num_generations: int,
        sampling: Sampling,
        tokens: SpecialTokens,
    ) -> None:
        check_sampling(sampling)
        device, limit, count = states.device, sampling.max_completion_length, len(states) * num_generations
        self._head, self._sampling = model.lm_head, sampling
        self._layers = FusedDecoder(model, prompts.max_seqlen + limit, joined=True)
        heads, dtype = self._layers.heads, self._layers.dtype
        kernel: AttentionKernel = getattr(model, "attention_kernel", "auto")
        self.cache = StaticKVCache(prompts, cache, heads, num_generations, limit, dtype, kernel)
        self._first = states.detach().repeat_interleave(num_generations, 0)
        self._positions = prompts.seqlens.repeat_interleave(num_generations)
        self._newest, self._step = torch.zeros_like(self._positions), torch.zeros(1, dtype=torch.long, device=device)
        self._running = torch.ones(count, dtype=torch.bool, device=device)
        self._pad = tokens.pad_id
        self._ids = torch.full((count, limit), self._pad, device=device)
        self._mask, self._logps = torch.zeros(2, count, limit, device=device)
        self._uniforms = torch.zeros(limit, count, dtype=torch.float64, device=device)
        vocabulary = model.get_input_embeddings().weight.shape[0]
        banned = [token for token in tokens.banned_ids if token < vocabulary]
        self._banned = torch.tensor(banned, dtype=torch.long, device=device)
        self._stops = torch.tensor(list(tokens.stop_ids), dtype=torch.long, device=device)
        self._graph: Any = None
        self.captures = device.type == "cuda"
        self._is_warm = False

    def generate(
        self, generator: torch.Generator | None = None, ends: Callable[[Tensor], Tensor] | None = None
    ) -> Decoded:
        """Draw until every row has drawn a stop token or the limit is reached; see :func:`~.sampler.decode`."""
        limit = self._ids.shape[1]
        if self._sampling.temperature:
            self._uniforms.copy_(draw_uniforms(self._uniforms.shape, generator, self._uniforms.device))
        self._draw(head_logits(self._head, self._first))
        for drawn in range(1, limit + 1):
            looks = ends is not None or drawn % STEPS_BETWEEN_LOOKS == 0 or drawn == limit
            rows = self._running.nonzero().squeeze(-1) if looks else None
            if ends is not None and rows is not None and len(rows):
                self._running[rows[ends(self._ids[rows, :drawn])]] = False
                rows = self._running.nonzero()
            if drawn == limit or (rows is not None and not len(rows)):
                break
            if drawn > self.cache.bucket:  # the graph holds the number of keys that it reads
                self.cache.bucket = min(2 * self.cache.bucket, limit)
                self._graph, self._is_warm = None, False
            self._replay()
        length = int(self._mask.sum(1).max())
        return Decoded(self._ids[:, :length], self._mask[:, :length], self._logps[:, :length], self._running)

    def advance(self) -> None:
        """Feed the newest tokens and draw the next; the host decides nothing here, and waits for nothing."""
        self.cache.begin()
        states = self._layers.advance(self._newest, self._positions, self.cache)
        self._positions.add_(1)
        self.cache.place.add_(1)
        self._draw(head_logits(self._head, states))

    def _draw(self, logits: Tensor) -> None:
        uniforms = self._uniforms.index_select(0, self._step).squeeze(0) if self._sampling.temperature else None
        drawn = draw_tokens(logits, self._sampling, uniforms, self._banned)
        # Rows that have ended go on, and what they draw is not kept: shapes in a graph are fixed.
        ids = torch.where(self._running, drawn.ids, self._pad)
        for buffer, new in ((self._ids, ids), (self._logps, drawn.logps * self._running), (self._mask, self._running)):
            buffer.index_copy_(1, self._step, new.unsqueeze(1).to(buffer.dtype))
        self._running.logical_and_(torch.isin(drawn.ids, self._stops, invert=True))
        self._newest.copy_(drawn.ids)
        self._step.add_(1)

    def _replay(self) -> None:
        if self.captures and self._graph is None and self._is_warm:
            graph = torch.cuda.CUDAGraph()
            try:
                # Of this thread alone: the one that pins memory for the next batch allocates meanwhile.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self.advance()
                self._graph = graph
            except RuntimeError as error:
                say_once(f"its step cannot be captured ({str(error).splitlines()[0]})")
                self.captures = False
        if self._graph is None:
            self.advance()
            self._is_warm = True  # kernels are loaded and chosen in the first step, which a capture does not allow
        else:
            self._graph.replay()


def decodes_by_graph(model: Any, states: Tensor, prompts: PackedLengths, num_generations: int, limit: int) -> bool:
    """Return whether the device is CUDA, the layers are known, and memory is free; if not, a line says so once."""
    if states.device.type != "cuda":
        return False
    if not has_fused_layers(model):
        say_once(f"the layers of {type(model).__name__} are not computed by it, or not as they are set up")
        return False
    needed = decoding_bytes(model, prompts.count, prompts.max_seqlen, num_generations, limit)
    free = free_bytes(states.device)
    if needed > free:
        say_once(f"it needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free")
    return bool(needed <= free)


def decoding_bytes(model: Any, prompts: int, prompt_length: int, num_generations: int, limit: int) -> int:
    """Return what a :class:`GraphDecoder` allocates for ``prompts`` prompts."""
    rows = prompts * num_generations
    kept = cache_bytes(model) * (prompts * prompt_length + rows * limit) + trained_bytes(model)
    return kept + LOGIT_COPIES * 4 * rows * int(model.config.vocab_size)


def cache_bytes(model: Any) -> int:
    """Return the bytes of a token's keys and values."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width: int = next(model.parameters()).element_size()
    return 2 * int(config.num_hidden_layers * config.num_key_value_heads * size) * width


def free_bytes(device: torch.device) -> int:
    """Return the memory of a CUDA device that this process may still use."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@once
def say_once(reason: str) -> None:
    """Log why tokens are decoded without a graph."""
    log.warning("Decoding launches each kernel by itself, without a CUDA graph, since %s", reason)
