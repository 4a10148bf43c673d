"""Log-probabilities and entropies of tokens from hidden states, without ever holding all their logits.

As Liger's and torchtune's fused linear losses, with the gradients computed in the forward pass. With ``p`` a token's
distribution, ``h`` its state and ``W`` the weight, the log-prob of token ``y`` has the gradient ``W[y] - p @ W`` in
``h``, which needs nothing that comes later: it is summed together with the normaliser. The gradient in ``W``,
``sum_t g_t (onehot(y_t) - p_t) h_t``, needs the loss's gradients ``g`` in the log-probs. Where the caller can tell them
up to a common factor, it is summed while the logits are at hand, too: three matrix products in all, against four where
the backward pass computes the logits again.

Where the head's weight is that of the input embedding, too, the gradients of both are added in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from affectgpt_r1.engine import chunk_sizes
from affectgpt_r1.engine import vocabulary_chunks as chunks
from affectgpt_r1.engine.base import PrecomputedGrads
from affectgpt_r1.engine.freed_memory import FROM_SYSTEM, return_freed_memory
from affectgpt_r1.engine.precision import exact_dtype

GRAD_TOLERANCE = 1e-6  # of the largest gradient


class TokenLogps(NamedTuple):
    """Of ``M`` tokens, in single precision, or in double with such weights."""

    logps: Tensor  # (M,) never above 0
    entropies: Tensor | None  # (M,) nats; None unless asked for


def fused_linear_logps(
    states: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    precomputed_grads: PrecomputedGrads | None = None,
) -> TokenLogps:
    """Return log-probs and entropies of tokens under ``softmax(states @ weight.T / temperature)``.

    At most ``KEPT_LOGITS`` logits exist at a time with ``precomputed_grads``, else a chunk's. Gradients cannot be
    differentiated again.

    Args:
        states: ``(M, D)`` hidden states that predict the tokens.
        weight: ``(V, D)`` output embedding.
        ids: ``(M,)`` int64 tokens.
        temperature: Divides the logits.
        entropy: Whether to return entropies; they carry gradient like the log-probs.
        precomputed_grads: What the loss's gradients in the log-probs will be. The backward pass compares; where they
            differ, or entropies have gradient too, it computes the logits again. Not called in half precision.
    """
    states, scale = states.to(weight.dtype), 1.0
    if weight.dtype.itemsize < 4:
        scale = 1 / temperature  # of the logits, in single precision: divided states would be rounded again
    else:
        states = states / temperature
    logps, entropies = _FusedLinearLogps.apply(
        states, weight, ids, entropy, precomputed_grads, torch.is_grad_enabled(), scale
    )
    return TokenLogps(logps, entropies)


class _FusedLinearLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        ids: Tensor,
        entropy: bool,
        precomputed_grads: PrecomputedGrads | None,
        differentiable: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor | None]:
        states_train, weight_trains = (differentiable and needed for needed in ctx.needs_input_grad[:2])
        # A frozen weight has no gradient, and one in half precision would be summed in that type.
        if not weight_trains or weight.dtype.itemsize < 4 or not len(ids):
            precomputed_grads = None
        with torch.autocast(states.device.type, enabled=False):
            walk = _walk(states, weight, ids, precomputed_grads, directions=states_train, entropy=entropy, scale=scale)
        ctx.save_for_backward(states, weight, ids, walk.normalizers, walk.directions, walk.precomputed, walk.entropies)
        ctx.to_weight, ctx.scale = walk.to_weight, scale
        ctx.set_materialize_grads(False)
        return walk.logps, walk.entropies

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor | None, entropy_gradient: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        states, weight, ids, normalizers, directions, precomputed, entropies = ctx.saved_tensors
        states_train, weight_trains = ctx.needs_input_grad[:2]
        gradient = torch.zeros_like(normalizers) if gradient is None else gradient.unsqueeze(-1).to(normalizers.dtype)
        summed, ctx.to_weight = ctx.to_weight, None  # used once: autograd may add to it in place
        with torch.autocast(states.device.type, enabled=False):
            to_states = to_weight = None
            # d loss / d h_t = g_t (W[y_t] - p_t @ W): the directions of the forward pass, scaled.
            if entropy_gradient is None:
                to_states = (directions * (gradient * ctx.scale)).to(states.dtype) if states_train else None
                to_weight = None if summed is None else _scaled(summed, precomputed, gradient)
            del summed
            if entropy_gradient is not None or (weight_trains and to_weight is None):
                again = _gradients_by_logits(
                    _Scored(states, weight, ids, normalizers, entropies, ctx.scale),
                    gradient,
                    entropy_gradient,
                    of_states=states_train and to_states is None,
                    of_weight=weight_trains,
                )
                to_states, to_weight = again[0] if to_states is None else to_states, again[1]
        return to_states, to_weight, None, None, None, None, None


class _Walk(NamedTuple):
    logps: Tensor  # (M,)
    entropies: Tensor | None  # (M,)
    normalizers: Tensor  # (M, 1) logsumexp of the logits
    directions: Tensor | None  # (M, D) W[y] - p @ W: the token's embedding less the mean embedding
    precomputed: Tensor | None  # (M, 1) gradients
    to_weight: Tensor | None  # (V, D) the weight's gradient by these


def _walk(
    states: Tensor,
    weight: Tensor,
    ids: Tensor,
    precomputed_grads: PrecomputedGrads | None,
    *,
    directions: bool,
    entropy: bool,
    scale: float,
) -> _Walk:
    embeddings = weight[ids].to(exact_dtype(weight.dtype))
    chosen = (states * embeddings).sum(-1, keepdim=True).mul_(scale)
    logps = chosen.new_empty(len(ids))
    normalizers, entropies = torch.empty_like(chosen), torch.empty_like(logps)
    keep = precomputed_grads is not None
    precomputed, to_weight = (torch.empty_like(chosen), _zero_gradient(weight)) if keep else (None, None)
    blocks = chunks.row_slices(len(ids), min(chunk_sizes.ROWS, chunks.kept_rows(weight)) if keep else chunk_sizes.ROWS)
    buffer = chunks.scratch(weight, blocks[0].stop if blocks else 0, keep=keep)
    for rows in blocks:
        sums = chunks.exponential_sums(
            states[rows], weight, chosen[rows], buffer, keep=keep, embedding=directions, entropy=entropy, scale=scale
        )
        log_mass = sums.mass.log()
        normalizers[rows] = sums.shift + log_mass
        # log p_y = s_y - log Z. The chosen logit and the one in its chunk are rounded apart: of a sure token the sum
        # could come out below its own term, and the log-prob above 0.
        logps[rows] = (chosen[rows] - sums.shift - log_mass).clamp_(max=0.0).squeeze(-1)
        if sums.entropy is not None:
            entropies[rows] = sums.entropy.squeeze(-1)
        if sums.embedding is not None:
            # In place: embeddings become the directions W[y] - (sum_v exp(s_v) W[v]) / Z.
            embeddings[rows].sub_(sums.embedding.div_(sums.mass))
        if precomputed_grads is not None and precomputed is not None and to_weight is not None:
            precomputed[rows] = precomputed_grads(logps[rows], rows).unsqueeze(-1).to(precomputed.dtype)
            pull = states[rows] * precomputed[rows]  # g_t h_t
            to_weight.index_add_(0, ids[rows], pull)
            # The kept chunks hold exp(s - shift): p_t g_t h_t is the chunk times pull / Z.
            pull.div_(sums.mass)
            for columns, chunk in chunks.kept_chunks(weight, len(pull), buffer):
                to_weight[columns].addmm_(chunk.T, pull, alpha=-1)
    return _Walk(
        logps,
        entropies if entropy else None,
        normalizers,
        embeddings if directions else None,
        precomputed,
        to_weight,
    )


def _zero_gradient(weight: Tensor) -> Tensor:
    """Return zeros as large as the weight, at least in single precision."""
    if weight.device.type == "cpu" and weight.nbytes >= FROM_SYSTEM:
        return_freed_memory()
    return torch.zeros_like(weight, dtype=exact_dtype(weight.dtype))


def _scaled(to_weight: Tensor, precomputed: Tensor, gradient: Tensor) -> Tensor | None:
    """Return ``to_weight`` times the factor between the gradients and those precomputed; None if there is none."""
    gradient, precomputed = gradient.squeeze(-1), precomputed.squeeze(-1)
    # Accumulation, loss scaling and averaging multiply all tokens' gradients alike: the factor is that of the largest.
    largest = precomputed.abs().argmax()
    factor = torch.where(precomputed[largest] == 0, 1.0, gradient[largest].double() / precomputed[largest].double())
    error = (gradient - factor * precomputed).abs().amax()
    if not error <= GRAD_TOLERANCE * gradient[largest].abs():  # NaN, too, means no factor
        return None
    return to_weight if factor == 1.0 else to_weight.mul_(factor)


class _Scored(NamedTuple):
    states: Tensor  # (M, D)
    weight: Tensor  # (V, D)
    ids: Tensor  # (M,)
    normalizers: Tensor  # (M, 1)
    entropies: Tensor | None  # (M,)
    scale: float  # of the logits


def _gradients_by_logits(
    scored: _Scored, gradient: Tensor, entropy_gradient: Tensor | None, *, of_states: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients in states and weight from logits that are computed again."""
    states, weight, ids, normalizers, entropies, scale = scored
    gradient = gradient * scale
    entropy_gradient = None if entropy_gradient is None else entropy_gradient * scale
    to_states = (weight[ids] * gradient) if of_states else None
    to_weight = _zero_gradient(weight) if of_weight else None
    if to_weight is not None:
        to_weight.index_add_(0, ids, states * gradient)
    blocks = chunks.row_slices(len(ids), chunk_sizes.ROWS)
    buffer = chunks.scratch(weight, blocks[0].stop if blocks else 0, keep=False)
    for rows in blocks:
        pull = gradient[rows]
        for columns, chunk in chunks.shifted_chunks(states[rows], weight, normalizers[rows], buffer, scale=scale):
            if entropy_gradient is not None and entropies is not None:
                # In logit v: d log p_y = onehot(y) - p_v, and d H = -p_v (log p_v + H), with log p_v in the chunk.
                surprise = torch.add(entropies[rows].unsqueeze(-1), chunk, alpha=1 / chunks.LOG2_E)
                pull = torch.addcmul(gradient[rows], entropy_gradient[rows].unsqueeze(-1), surprise)
            chunk = chunk.exp2_().mul_(pull)
            if to_states is not None:
                chunks.add_product(to_states[rows], chunk, weight[columns], alpha=-1)
            if to_weight is not None:
                chunks.add_product(to_weight[columns], chunk.T, states[rows], alpha=-1)
    if to_weight is not None:
        to_weight = to_weight.to(weight.dtype)
    return (None if to_states is None else to_states.to(states.dtype)), to_weight


class InputEmbedding:
    """The input embedding of a causal language model, for one pass forward and backward.

    The gradient of a lookup is a matrix as large as the embedding in which only a few rows are not zero. Where the head
    has the same weight, autograd would hold that matrix next to the head's and add the two. Here every lookup hands the
    weight on to the next use, at last to the head, and adds its rows to the gradient that comes back from there.

    Args:
        model: A transformers causal language model.

    Attributes:
        weight: ``(V, D)``, which the head must use in this pass; None where the weights are not tied or do not train,
            or a lookup does more than choose rows.
    """

    def __init__(self, model: Any) -> None:
        self._module = model.get_input_embeddings()
        self.weight: Tensor | None = self._module.weight if _can_chain_gradient(self._module, model.lm_head) else None

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``(..., D)`` of tokens ``(...)``."""
        # _LookUp returns the weight as a new node of the graph, so that the next use depends on this one.
        if self.weight is None or not torch.is_grad_enabled():
            rows: Tensor = self._module(ids)
        else:
            rows, self.weight = _LookUp.apply(self.weight, ids, self._module.padding_idx)
        return rows


def _can_chain_gradient(module: Any, head: Any) -> bool:
    if type(module) is not nn.Embedding or module.sparse or module.scale_grad_by_freq or module.max_norm is not None:
        return False
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None or head.weight is not module.weight:
        return False
    hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in (module, head))
    return type(module.weight) is nn.Parameter and module.weight.requires_grad and not hooked


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, ids)
        ctx.padding = padding
        ctx.set_materialize_grads(False)
        return weight[ids], weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor | None, of_weight: Tensor | None) -> tuple[Tensor | None, None, None]:
        weight, ids = ctx.saved_tensors
        if of_rows is not None:
            # In place: nothing else holds what comes back, which was made by the head, or by a later lookup.
            of_weight = torch.zeros_like(weight) if of_weight is None else of_weight
            ids, of_rows = ids.flatten(), of_rows.flatten(0, -2)
            if ctx.padding is not None:
                of_rows = of_rows.masked_fill((ids == ctx.padding).unsqueeze(-1), 0.0)
            of_weight.index_add_(0, ids, of_rows)
        return of_weight, None, None
