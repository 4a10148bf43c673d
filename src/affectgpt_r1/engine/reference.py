"""The reference engine: plain transformers calls on any device, slow and easy to check.

Prompts are repeated for each completion, nothing is packed, fused or reused. It draws with the sampler that the fast
engine draws with, so that both give the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from affectgpt_r1.engine.base import (
    Decoded,
    EmbeddedPrompts,
    LogpsAndEntropies,
    PrecomputedGrads,
    SpecialTokens,
)
from affectgpt_r1.engine.sampler import decode
from affectgpt_r1.types import Sampling, TokenBatch


class ReferencePrefill(NamedTuple):
    """Prompts that went through the model once."""

    logits: Tensor  # (B, V) that predict each completion's first token
    mask: Tensor  # (B, P)
    cache: Any  # a transformers cache of B rows


class ReferenceEngine:
    """See :class:`~affectgpt_r1.engine.base.Engine`.

    Args:
        model: A transformers causal language model.
    """

    reuses_prefill = False
    samples_elsewhere = False

    def __init__(self, model: Any) -> None:
        self.model = model

    def token_embedding(self) -> Callable[[Tensor], Tensor]:
        """Return the model's own input embedding."""
        embedding: Callable[[Tensor], Tensor] = self.model.get_input_embeddings()
        return embedding

    @torch.no_grad()
    def prefill(self, prompts: EmbeddedPrompts) -> ReferencePrefill:
        """See :meth:`~affectgpt_r1.engine.base.Engine.prefill`."""
        output = self.model(
            inputs_embeds=prompts.embeds,
            attention_mask=prompts.mask,
            position_ids=_positions(prompts.mask),
            use_cache=True,
            logits_to_keep=1,
        )
        return ReferencePrefill(output.logits[:, -1], prompts.mask, output.past_key_values)

    @torch.no_grad()
    def generate(
        self,
        prefill: ReferencePrefill,
        num_generations: int,
        sampling: Sampling,
        tokens: SpecialTokens,
        *,
        generator: torch.Generator | None = None,
        ends: Callable[[Tensor], Tensor] | None = None,
    ) -> Decoded:
        """See :meth:`~affectgpt_r1.engine.base.Engine.generate`; uses up ``prefill``."""
        cache = prefill.cache
        cache.batch_repeat_interleave(num_generations)
        mask = prefill.mask.repeat_interleave(num_generations, 0)  # (N, tokens in the cache)

        def advance(newest: Tensor, rows: Tensor) -> Tensor:
            nonlocal mask
            # Rows that have ended are fed padding, and what comes of it is never read: the cache keeps its N rows.
            ids = newest.new_full((len(mask), 1), tokens.pad_id)
            ids[rows, 0] = newest
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            positions = _positions(mask)[:, -1:]
            output = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            logits: Tensor = output.logits[rows, -1]
            return logits

        first = prefill.logits.repeat_interleave(num_generations, 0)
        return decode(first, advance, sampling=sampling, tokens=tokens, generator=generator, ends=ends)

    def logps_and_entropies(
        self,
        prompts: EmbeddedPrompts,
        completions: TokenBatch,
        temperature: float,
        *,
        entropy: bool,
        precomputed_grads: PrecomputedGrads | None = None,
    ) -> LogpsAndEntropies:
        """See :class:`~affectgpt_r1.engine.base.Engine`; here ``precomputed_grads`` saves nothing."""
        num_generations, length = completions.ids.shape[1:]
        ids, completion_mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1).long()  # (N, C)
        embeds = torch.cat([prompts.embeds.repeat_interleave(num_generations, 0), prompts.embed_tokens(ids)], 1)
        mask = torch.cat([prompts.mask.repeat_interleave(num_generations, 0), completion_mask], 1)
        output = self.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=_positions(mask),
            use_cache=False,
            logits_to_keep=length + 1,
        )
        # The logits at a position predict the next token: those at the prompt's end the first, those of the last none.
        logits = _at_least_single(output.logits[:, :-1]) / temperature  # (N, C, V)
        hidden = completion_mask == 0
        logps = selective_log_softmax(logits, ids).masked_fill(hidden, 0.0)
        entropies = entropy_from_logits(logits).masked_fill(hidden, 0.0) if entropy else torch.zeros_like(logps)
        shape = completions.ids.shape
        return LogpsAndEntropies(logps.view(shape), entropies.view(shape))


def _positions(mask: Tensor) -> Tensor:
    """Return the place of each token among its row's own; padding before a prompt takes none.

    ``position_ids`` must be given: with ``inputs_embeds`` transformers would count the padding.
    """
    return (mask.cumsum(-1) - 1).clamp(min=0)


def selective_log_softmax(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-prob ``(...)`` of each token ``ids`` ``(...)`` from logits ``(..., V)``."""
    # log softmax(s)[y] = s_y - logsumexp(s); of V log-probs only one is needed.
    logits = _at_least_single(logits)
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def entropy_from_logits(logits: Tensor) -> Tensor:
    """Return the Shannon entropy ``(...)`` in nats of ``softmax(logits)``, ``(..., V)``."""
    logps = torch.log_softmax(_at_least_single(logits), dim=-1)
    return -(logps.exp() * logps).sum(-1)


def _at_least_single(logits: Tensor) -> Tensor:
    """Return logits in float32, or float64: sums over a vocabulary in half precision are wrong by 1 % and more."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
