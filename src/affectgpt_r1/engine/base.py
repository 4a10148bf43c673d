"""What a policy asks of an engine, and what passes between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from affectgpt_r1.types import Sampling, TokenBatch

PrecomputedGrads: TypeAlias = Callable[[Tensor, slice], Tensor]
"""Return the loss's gradients ``(m,)`` in the log-probs ``(m,)`` of a slice of the tokens, but for a common factor."""


class EmbeddedPrompts(NamedTuple):
    """Prompts as embeddings, left-padded so that every prompt ends at the same place."""

    embeds: Tensor  # (B, P, D)
    mask: Tensor  # (B, P) int64
    embed_tokens: Any  # the function from Engine.token_embedding that embedded the prompts: ids (...) to (..., D)


class Decoded(NamedTuple):
    """``N`` decoded completions."""

    ids: Tensor  # (N, C) int64
    mask: Tensor  # (N, C) float32
    per_token_logps: Tensor  # (N, C) float32
    truncated: Tensor  # (N,) bool


class LogpsAndEntropies(NamedTuple):
    """Of completion tokens; 0 where the mask is 0."""

    per_token_logps: Tensor  # (B, G, C) with gradient
    entropies: Tensor  # (B, G, C) nats, with gradient where asked for


class SpecialTokens(NamedTuple):
    """Tokens that decoding treats apart."""

    stop_ids: Sequence[int]  # end a completion
    banned_ids: Sequence[int]  # are never drawn
    pad_id: int  # follows the stop token


class Engine(Protocol):
    """Runs a policy's language model over prompts that hold the media already."""

    @property
    def samples_elsewhere(self) -> bool:
        """Whether another program runs :meth:`generate`: its log-probs differ from those of a pass here."""
        ...

    @property
    def reuses_prefill(self) -> bool:
        """Whether :meth:`logps_and_entropies` can continue what :meth:`prefill` computed."""
        ...

    def token_embedding(self) -> Callable[[Tensor], Tensor]:
        """Return the function that embeds the tokens of one pass, prompts first."""
        ...

    def prefill(self, prompts: EmbeddedPrompts) -> Any:
        """Run the prompts once; in the autograd graph if gradients are on and the pass can be reused."""
        ...

    def generate(
        self,
        prefill: Any,
        num_generations: int,
        sampling: Sampling,
        tokens: SpecialTokens,
        *,
        generator: torch.Generator | None = None,
        ends: Callable[[Tensor], Tensor] | None = None,
    ) -> Decoded:
        """Draw ``G`` completions of each prompt, without gradient; see :func:`~affectgpt_r1.engine.sampler.decode`."""
        ...

    def logps_and_entropies(
        self,
        prompts: Any,
        completions: TokenBatch,
        temperature: float,
        *,
        entropy: bool,
        precomputed_grads: PrecomputedGrads | None = None,
    ) -> LogpsAndEntropies:
        """Return the log-probs and, if asked, entropies of ``(B, G, C)`` tokens, with gradient.

        Args:
            prompts: :class:`EmbeddedPrompts`, or their prefill where the engine can reuse it.
            completions: Masks are 1 up to the last token of a completion.
            temperature: Divides the logits.
            entropy: Whether to compute entropies; else they are 0.
            precomputed_grads: May save work, and never changes the result.
        """
        ...


def mean_loss_grads(logps: Tensor, rows: slice) -> Tensor:
    """Return the :data:`PrecomputedGrads` of a mean over all tokens, such as the loss of supervised fine-tuning."""
    return torch.ones_like(logps)
