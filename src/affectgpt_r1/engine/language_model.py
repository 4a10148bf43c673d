"""Passes of the language model: prompts once, their completions after them, and decoding token by token."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from affectgpt_r1.engine.fused_decoder import FusedDecoder, supports_fused_decode
from affectgpt_r1.engine.fused_linear_logps import PrecomputedGrads, TokenLogps, fused_linear_logps
from affectgpt_r1.engine.head_logits import head_logits
from affectgpt_r1.engine.kv_cache import KVCache
from affectgpt_r1.engine.lm_head_sampling import chunked_lm_head
from affectgpt_r1.engine.logprobs import entropy_from_logits, selective_log_softmax
from affectgpt_r1.engine.packed_lengths import PackedLengths
from affectgpt_r1.engine.prefix_attention import SharedRow
from affectgpt_r1.engine.tied_embedding import InputEmbedding
from affectgpt_r1.types import TokenBatch

HEAD_ROWS = 256


class EmbeddedPrompts(NamedTuple):
    """Prompts as embeddings, left-padded so that every prompt ends at the same place."""

    embeds: Tensor  # (B, P, D)
    mask: Tensor  # (B, P) int64
    embedding: InputEmbedding


class Prefill(NamedTuple):
    """Prompts that went through the model once."""

    states: Tensor  # (B, D) after the last layer, at each prompt's end
    row: SharedRow  # lengths, and keys and values by layer
    embedding: InputEmbedding


def prefill(model: Any, prompts: EmbeddedPrompts) -> Prefill:
    """Run the prompts and keep their keys and values, in the autograd graph if gradients are on.

    Args:
        model: A causal language model with shared attention.
        prompts: ``B`` prompts.
    """
    row = SharedRow(_prompt_lengths(prompts), None, keep=True)
    return Prefill(_run(model, _flat_prompts(prompts), row.prompts.positions, row), row, prompts.embedding)


def shared_states(model: Any, prompts: EmbeddedPrompts | Prefill, completions: TokenBatch) -> Tensor:
    """States that predict each completion token, with every prompt token computed once.

    Args:
        model: A causal language model with shared attention.
        prompts: ``B`` prompts, or their own pass, if it was made already with these weights.
        completions: ``G`` completions of each; masks are 1 up to the last token.

    Returns:
        ``(M, D)``, a row for each token with mask 1, completion by completion.
    """
    num_generations = completions.ids.shape[1]
    ids, mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1).bool()
    fed = mask[:, 1:]  # the last token predicts nothing
    if not fed.any():
        prompts = prompts if isinstance(prompts, Prefill) else prefill(model, prompts)
        return prompts.states.repeat_interleave(num_generations, 0)[mask[:, 0]]
    lengths = prompts.row.prompts if isinstance(prompts, Prefill) else _prompt_lengths(prompts)
    continued = PackedLengths(fed.sum(-1).tolist(), ids.device)
    embeds = prompts.embedding(ids[:, :-1][fed])
    positions = continued.positions + lengths.counts[continued.sequences // num_generations]
    if isinstance(prompts, Prefill):
        row = SharedRow(lengths, continued, prefilled=True, cache=prompts.row.cache)
        states = torch.cat([prompts.states, _run(model, embeds, positions, row)])
    else:
        embeds = torch.cat([_flat_prompts(prompts), embeds])
        positions = torch.cat([lengths.positions, positions])
        states = _run(model, embeds, positions, SharedRow(lengths, continued))
    return states.index_select(0, _predictors(continued, num_generations, mask))


def repeated_states(model: Any, prompts: EmbeddedPrompts, completions: TokenBatch) -> Tensor:
    """:func:`shared_states` by the model's own attention, the prompt repeated for each completion."""
    num_generations, length = completions.ids.shape[1:]
    ids, mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1).long()
    embeds = torch.cat([prompts.embeds.repeat_interleave(num_generations, 0), prompts.embedding(ids)], 1)
    full = torch.cat([prompts.mask.repeat_interleave(num_generations, 0), mask], 1)
    positions = (full.cumsum(-1) - 1).clamp(min=0)
    states: Tensor = model.model(
        inputs_embeds=embeds, attention_mask=full, position_ids=positions, use_cache=False
    ).last_hidden_state
    return states[:, -length - 1 : -1][mask.bool()]


def logps_and_entropies(
    model: Any,
    states: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    entropy: bool,
    precomputed_grads: PrecomputedGrads | None = None,
    weight: Tensor | None = None,
) -> TokenLogps:
    """Log-probabilities and, if asked, entropies of ``(M,)`` tokens from the ``(M, D)`` states that predict them.

    A plain linear head is walked in chunks, and uses ``precomputed_grads`` (see
    :func:`~affectgpt_r1.engine.fused_linear_logps.fused_linear_logps`); any other (with adapters, or a bias) in chunks
    of rows that the backward pass forms again. ``weight`` is the head's own as :class:`InputEmbedding` hands it on.
    """
    head = model.lm_head
    if type(head) is nn.Linear and getattr(head, "bias", None) is None:
        weight = head.weight if weight is None else weight
        return fused_linear_logps(
            states, weight, ids, temperature=temperature, entropy=entropy, precomputed_grads=precomputed_grads
        )

    def score(rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = head_logits(head, rows) / temperature
        return selective_log_softmax(logits, tokens), entropy_from_logits(logits)

    parts = [
        checkpoint(score, rows, tokens, use_reentrant=False)
        for rows, tokens in zip(torch.split(states, HEAD_ROWS), torch.split(ids, HEAD_ROWS), strict=True)
    ]
    logps, entropies = (torch.cat(list(one)) for one in zip(*parts, strict=True))
    return TokenLogps(logps, entropies if entropy else None)


class Decoder:
    """Continues prefilled prompts by one token a call, without gradient.

    Args:
        model: A causal language model with shared attention.
        prefilled: The prompts' pass.
        num_generations: ``G`` completions of each prompt.
        max_length: Most tokens of a completion.

    Attributes:
        first: What follows the prompts, as :meth:`advance` gives it, for each of the ``N`` completions.
        head: Draws tokens from states; None where :meth:`advance` gives logits.
    """

    def __init__(self, model: Any, prefilled: Prefill, num_generations: int, max_length: int) -> None:
        self.model = model
        self.row = KVCache(prefilled.row.prompts, prefilled.row.cache, num_generations, max_length)
        prompts = prefilled.row.prompts
        self._lengths = prompts.counts.repeat_interleave(num_generations)
        self._body = FusedDecoder(model, prompts.longest + max_length) if supports_fused_decode(model) else None
        self.head = chunked_lm_head(model)
        self.first: Tensor = self._outputs(prefilled.states.detach()).repeat_interleave(num_generations, 0)

    def advance(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """What follows the newest tokens: states ``(m, D)`` for :attr:`head`, or without it logits ``(m, V)``.

        Args:
            tokens: ``(m,)`` newest tokens of the completions that still run.
            rows: ``(m,)`` which of the ``N`` completions these are.
        """
        positions = self._lengths[rows] + self.row.length
        self.row.begin(rows)
        if self._body is None:
            states = _run(self.model, self.model.get_input_embeddings()(tokens), positions, self.row)
        else:
            states = self._body.advance(tokens, positions, self.row)
        self.row.length += 1
        return self._outputs(states)

    def _outputs(self, states: Tensor) -> Tensor:
        return states if self.head is not None else head_logits(self.model.lm_head, states)


def _run(model: Any, embeds: Tensor, positions: Tensor, row: SharedRow | KVCache) -> Tensor:
    states: Tensor = model.model(
        inputs_embeds=embeds.unsqueeze(0),
        # A mask of four dimensions is passed on as it is, and our attention needs none.
        attention_mask=embeds.new_empty(1, 1, 1, 1),
        position_ids=positions.unsqueeze(0),
        use_cache=False,
        row=row,
    ).last_hidden_state[0]
    read = row.read if isinstance(row, SharedRow) else None
    return states if read is None or len(states) == len(read) else states.index_select(0, read)


def _prompt_lengths(prompts: EmbeddedPrompts) -> PackedLengths:
    return PackedLengths(prompts.mask.sum(-1).tolist(), prompts.mask.device)


def _flat_prompts(prompts: EmbeddedPrompts) -> Tensor:
    kept = prompts.mask.flatten().nonzero().squeeze(-1)
    flat = prompts.embeds.flatten(0, 1)
    return flat if len(kept) == len(flat) else flat.index_select(0, kept)


def _predictors(completions: PackedLengths, num_generations: int, mask: Tensor) -> Tensor:
    """Where in the prompts' ends and the completions stands the state that predicts each token with mask 1."""
    num_prompts = len(mask) // num_generations
    ends = torch.arange(num_prompts, device=mask.device).repeat_interleave(num_generations).unsqueeze(-1)
    steps = torch.arange(mask.shape[1] - 1, device=mask.device)
    own = num_prompts + completions.starts.unsqueeze(-1) + steps
    return torch.cat([ends, own], 1)[mask]
