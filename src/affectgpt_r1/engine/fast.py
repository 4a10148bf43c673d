"""The fast engine: each prompt runs once for all its completions, forward and backward, and nothing is padded.

It decodes with :class:`~affectgpt_r1.engine.fused_decoder.FusedDecoder` on the CPU and with
:class:`~affectgpt_r1.engine.graph_decoder.GraphDecoder` on CUDA. Log-probs come from the hidden states without ever
holding the logits of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from affectgpt_r1.engine.base import Decoded, EmbeddedPrompts, LogpsAndEntropies, PrecomputedGrads, SpecialTokens
from affectgpt_r1.engine.fused_attention import check_attention
from affectgpt_r1.engine.fused_decoder import (
    FusedDecoder,
    KVCache,
    has_fused_layers,
    join_weights,
    supports_fused_decode,
)
from affectgpt_r1.engine.fused_layers import fuse_layers, trim_last_layer
from affectgpt_r1.engine.fused_linear_logps import InputEmbedding, TokenLogps, fused_linear_logps
from affectgpt_r1.engine.graph_decoder import GraphDecoder, decodes_by_graph
from affectgpt_r1.engine.lm_head_sampling import chunked_lm_head
from affectgpt_r1.engine.precision import head_logits
from affectgpt_r1.engine.prefix_attention import CausalAttention, PrefixAttention, use_prefix_attention
from affectgpt_r1.engine.reference import entropy_from_logits, selective_log_softmax
from affectgpt_r1.engine.sampler import decode
from affectgpt_r1.engine.varlen_attention import PackedLengths
from affectgpt_r1.types import Sampling, TokenBatch

HEAD_ROWS = 256  # tokens whose logits exist at once where the head is not a plain linear layer


class Prefill(NamedTuple):
    """Prompts that went through the model once."""

    states: Tensor  # (B, D) after the last layer, at each prompt's end
    attention: PrefixAttention  # lengths, and keys and values by layer
    embed_tokens: InputEmbedding


class FastEngine:
    """See :class:`~affectgpt_r1.engine.base.Engine`.

    Args:
        model: A transformers causal language model. Forward passes of its modules are replaced; its weights and their
            names stay.
        share_prefix: Run each prompt once and share its states among its completions; off, the update repeats the
            prompt for each completion. Both work under gradient checkpointing.
        attention: What attends over packed sequences; see
            :func:`~affectgpt_r1.engine.fused_attention.chosen_attention`.
    """

    samples_elsewhere = False

    def __init__(self, model: Any, *, share_prefix: bool = True, attention: str = "auto") -> None:
        self.model = model
        model.attention_kernel = check_attention(attention)
        self.share_prefix = share_prefix
        use_prefix_attention(model)
        trim_last_layer(model)
        fuse_layers(model)

    @property
    def reuses_prefill(self) -> bool:
        """See :class:`~affectgpt_r1.engine.base.Engine`."""
        return self.share_prefix

    def token_embedding(self) -> InputEmbedding:
        """See :class:`~affectgpt_r1.engine.base.Engine`."""
        return InputEmbedding(self.model)

    def prefill(self, prompts: EmbeddedPrompts) -> Prefill:
        """See :class:`~affectgpt_r1.engine.base.Engine`."""
        if prompts.embeds.device.type == "cuda" and has_fused_layers(self.model):
            join_weights(self.model)
        return prefill_prompts(self.model, prompts)

    @torch.no_grad()
    def generate(
        self,
        prefill: Prefill,
        num_generations: int,
        sampling: Sampling,
        tokens: SpecialTokens,
        *,
        generator: torch.Generator | None = None,
        ends: Callable[[Tensor], Tensor] | None = None,
    ) -> Decoded:
        """See :class:`~affectgpt_r1.engine.base.Engine`."""
        prompts, limit = prefill.attention.prompts, sampling.max_completion_length
        if decodes_by_graph(self.model, prefill.states, prompts, num_generations, limit):
            # Without autocast: it decodes in the weights' own type.
            with torch.autocast(prefill.states.device.type, enabled=False):
                graphed = GraphDecoder(
                    self.model, prefill.states, prompts, prefill.attention.cache, num_generations, sampling, tokens
                )
                return graphed.generate(generator, ends)
        decoder = Decoder(self.model, prefill, num_generations, sampling.max_completion_length)
        return decode(
            decoder.first,
            decoder.advance,
            sampling=sampling,
            tokens=tokens,
            generator=generator,
            ends=ends,
            head=decoder.head,
        )

    def logps_and_entropies(
        self,
        prompts: EmbeddedPrompts | Prefill,
        completions: TokenBatch,
        temperature: float,
        *,
        entropy: bool,
        precomputed_grads: PrecomputedGrads | None = None,
    ) -> LogpsAndEntropies:
        """See :class:`~affectgpt_r1.engine.base.Engine`."""
        kept = completions.mask.flatten(0, 1).bool()  # (N, C)
        if isinstance(prompts, Prefill) or self.share_prefix:
            states = prefix_states(self.model, prompts, completions)
        else:
            states = repeated_states(self.model, prompts, completions)
        scored = head_logps(
            self.model,
            states,
            completions.ids.flatten(0, 1)[kept],
            temperature=temperature,
            entropy=entropy,
            precomputed_grads=precomputed_grads,
            # Read last: every lookup of a tied embedding hands the weight on to the next use, at the end to the head.
            weight=prompts.embed_tokens.weight,
        )
        blank = scored.logps.new_zeros(kept.shape)
        logps, entropies = (
            blank if values is None else blank.index_put((kept,), values) for values in (scored.logps, scored.entropies)
        )
        return LogpsAndEntropies(logps.view(completions.ids.shape), entropies.view(completions.ids.shape))


def prefill_prompts(model: Any, prompts: EmbeddedPrompts) -> Prefill:
    """Run the prompts and keep their keys and values, in the autograd graph if gradients are on."""
    attention = PrefixAttention(_prompt_lengths(prompts), None, keep=True)
    states = _run(model, _pack_prompts(prompts), attention.prompts.positions, attention)
    return Prefill(states, attention, prompts.embed_tokens)


def prefix_states(model: Any, prompts: EmbeddedPrompts | Prefill, completions: TokenBatch) -> Tensor:
    """Return the states ``(M, D)`` that predict each token with mask 1, with every prompt token computed once."""
    num_generations = completions.ids.shape[1]
    ids, mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1).bool()
    fed = mask[:, 1:]  # one token fewer than is scored: the last predicts nothing, the first is predicted by the prompt
    if not fed.any():
        prompts = prompts if isinstance(prompts, Prefill) else prefill_prompts(model, prompts)
        return prompts.states.repeat_interleave(num_generations, 0)[mask[:, 0]]
    lengths = prompts.attention.prompts if isinstance(prompts, Prefill) else _prompt_lengths(prompts)
    continued = PackedLengths(fed.sum(-1).tolist(), ids.device)
    embeds = prompts.embed_tokens(ids[:, :-1][fed])
    # A completion's positions continue those of its own prompt: n-th completion, prompt n // G.
    positions = continued.positions + lengths.seqlens[continued.sequences // num_generations]
    if isinstance(prompts, Prefill):
        attention = PrefixAttention(lengths, continued, prefilled=True, cache=prompts.attention.cache)
        states = torch.cat([prompts.states, _run(model, embeds, positions, attention)])
    else:
        embeds = torch.cat([_pack_prompts(prompts), embeds])
        positions = torch.cat([lengths.positions, positions])
        states = _run(model, embeds, positions, PrefixAttention(lengths, continued))
    return states.index_select(0, _predictors(continued, num_generations, mask))


def repeated_states(model: Any, prompts: EmbeddedPrompts, completions: TokenBatch) -> Tensor:
    """:func:`prefix_states` with the prompt repeated for each completion."""
    num_generations, length = completions.ids.shape[1:]
    ids, mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1).long()
    embeds = torch.cat([prompts.embeds.repeat_interleave(num_generations, 0), prompts.embed_tokens(ids)], 1)
    full = torch.cat([prompts.mask.repeat_interleave(num_generations, 0), mask], 1)
    if model.training and any(getattr(layer.self_attn, "attention_dropout", 0) for layer in model.model.layers):
        # Only the model's own attention has dropout.
        positions = (full.cumsum(-1) - 1).clamp(min=0)  # left padding takes no position
        states: Tensor = model.model(
            inputs_embeds=embeds, attention_mask=full, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states[:, -length - 1 : -1][mask.bool()]
    lengths = PackedLengths(full.sum(-1).tolist(), full.device)
    packed = _run(model, _packed(embeds, full), lengths.positions, CausalAttention(lengths))
    # The prompt's last token predicts the first of its completion.
    first = lengths.cu_seqlens[:-1] + (full.sum(-1) - mask.sum(-1)) - 1
    return packed.index_select(0, (first.unsqueeze(-1) + torch.arange(length, device=full.device))[mask.bool()])


def head_logps(
    model: Any,
    states: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    entropy: bool,
    precomputed_grads: PrecomputedGrads | None = None,
    weight: Tensor | None = None,
) -> TokenLogps:
    """Return log-probs and, if asked, entropies of ``(M,)`` tokens from the ``(M, D)`` states that predict them.

    Args:
        model: A causal language model.
        states: ``(M, D)``.
        ids: ``(M,)``.
        temperature: Divides the logits.
        entropy: Whether to compute entropies.
        precomputed_grads: See :func:`~affectgpt_r1.engine.fused_linear_logps.fused_linear_logps`.
        weight: The head's own as :class:`InputEmbedding` hands it on.
    """
    # A plain linear head is walked in chunks of the vocabulary. Any other (with adapters, or a bias) is called with
    # chunks of tokens, whose logits the backward pass computes again.
    head = model.lm_head
    if type(head) is nn.Linear and getattr(head, "bias", None) is None:
        weight = head.weight if weight is None else weight
        return fused_linear_logps(
            states, weight, ids, temperature=temperature, entropy=entropy, precomputed_grads=precomputed_grads
        )

    def rows_logps(rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = head_logits(head, rows) / temperature
        return selective_log_softmax(logits, tokens), entropy_from_logits(logits)

    parts = [
        checkpoint(rows_logps, rows, tokens, use_reentrant=False)
        for rows, tokens in zip(torch.split(states, HEAD_ROWS), torch.split(ids, HEAD_ROWS), strict=True)
    ]
    logps, entropies = (torch.cat(list(values)) for values in zip(*parts, strict=True))
    return TokenLogps(logps, entropies if entropy else None)


class Decoder:
    """Continues prefilled prompts by one token per call, without gradient.

    Attributes:
        first: What follows the prompts, as :meth:`advance` gives it, for each of the ``N`` completions.
        head: Draws tokens from states; None where :meth:`advance` gives logits.
    """

    def __init__(self, model: Any, prefill: Prefill, num_generations: int, max_length: int) -> None:
        self.model = model
        prompts = prefill.attention.prompts
        self.cache = KVCache(prompts, prefill.attention.cache, num_generations, max_length)
        self._prompt_lengths = prompts.seqlens.repeat_interleave(num_generations)
        self._fused = FusedDecoder(model, prompts.max_seqlen + max_length) if supports_fused_decode(model) else None
        self.head = chunked_lm_head(model)
        self.first: Tensor = self._outputs(prefill.states.detach()).repeat_interleave(num_generations, 0)

    def advance(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return states ``(m, D)`` for :attr:`head`, or without it logits ``(m, V)``; see :func:`decode`."""
        positions = self._prompt_lengths[rows] + self.cache.length
        self.cache.begin(rows)
        if self._fused is None:
            states = _run(self.model, self.model.get_input_embeddings()(tokens), positions, self.cache)
        else:
            states = self._fused.advance(tokens, positions, self.cache)
        self.cache.length += 1
        return self._outputs(states)

    def _outputs(self, states: Tensor) -> Tensor:
        return states if self.head is not None else head_logits(self.model.lm_head, states)


def _run(
    model: Any, embeds: Tensor, positions: Tensor, attention: PrefixAttention | CausalAttention | KVCache
) -> Tensor:
    if not isinstance(attention, KVCache):
        attention.kernel = getattr(model, "attention_kernel", "auto")
    states: Tensor = model.model(
        inputs_embeds=embeds.unsqueeze(0),
        # transformers passes a mask of four dimensions on as it is, and builds none: prefix attention reads no mask.
        attention_mask=embeds.new_empty(1, 1, 1, 1),
        position_ids=positions.unsqueeze(0),
        use_cache=False,
        packed_attention=attention,
    ).last_hidden_state[0]
    read = attention.read if isinstance(attention, PrefixAttention) else None
    # A trimmed last layer has returned the rows that are read; the layers of other families return all.
    return states if read is None or len(states) == len(read) else states.index_select(0, read)


def _prompt_lengths(prompts: EmbeddedPrompts) -> PackedLengths:
    return PackedLengths(prompts.mask.sum(-1).tolist(), prompts.mask.device)


def _pack_prompts(prompts: EmbeddedPrompts) -> Tensor:
    """Return the prompts' embeddings ``(prompt tokens, D)`` without padding."""
    return _packed(prompts.embeds, prompts.mask)


def _packed(padded: Tensor, mask: Tensor) -> Tensor:
    kept = mask.flatten().nonzero().squeeze(-1)
    flat = padded.flatten(0, 1)
    return flat if len(kept) == len(flat) else flat.index_select(0, kept)


def _predictors(completions: PackedLengths, num_generations: int, mask: Tensor) -> Tensor:
    """Return the index of the state that predicts each token with mask 1, in the prompts' ends and the completions."""
    num_prompts = len(mask) // num_generations
    ends = torch.arange(num_prompts, device=mask.device).repeat_interleave(num_generations).unsqueeze(-1)
    steps = torch.arange(mask.shape[1] - 1, device=mask.device)
    own = num_prompts + completions.cu_seqlens[:-1].unsqueeze(-1) + steps
    return torch.cat([ends, own], 1)[mask]
