"""What stages ask of a policy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from affectgpt_r1.engine.base import LogpsAndEntropies, PrecomputedGrads
from affectgpt_r1.types import ClipBatch, PrefixCache, Rollout, Sampling, TokenBatch

__all__ = ["LogpsAndEntropies", "Policy"]


class Policy(Protocol):
    """A multimodal language model. The media reach generation and log-probs through one code path."""

    @property
    def enable_thinking(self) -> bool:
        """Whether the prompt asks for reasoning before the answer."""
        ...

    @property
    def samples_as_scored(self) -> bool:
        """Whether generation and log-probs see the same prompt, as an importance ratio needs."""
        ...

    @property
    def samples_elsewhere(self) -> bool:
        """Whether another program samples, whose log-probs differ from those of an update's pass."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def with_features(self, batch: ClipBatch) -> ClipBatch:
        """Return the batch with frozen-encoder features in place of media, so that the encoders run once per clip."""
        ...

    def prompts(self, batch: ClipBatch) -> list[str]:
        """Return the ``B`` prompts as text."""
        ...

    def encode_targets(self, batch: ClipBatch) -> TokenBatch:
        """Return the target answers as ``(B, 1, C)`` tokens, each ended by the stop token."""
        ...

    def logps_and_entropies(
        self,
        batch: ClipBatch,
        completions: TokenBatch,
        temperature: float = 1.0,
        *,
        entropy_gradient: bool = False,
        precomputed_grads: PrecomputedGrads | None = None,
        prefix_cache: PrefixCache | None = None,
    ) -> LogpsAndEntropies:
        """Return log-probs and entropies of ``(B, G, C)`` completion tokens given prompts and media.

        Args:
            batch: ``B`` clips.
            completions: Masks are 1 up to the last token of a completion.
            temperature: Divides the logits.
            entropy_gradient: Let entropies carry gradient, for an entropy bonus.
            precomputed_grads: The loss's gradients in the log-probs of tokens with mask 1, completion by completion. A
                right one saves work, a wrong one changes nothing.
            prefix_cache: Of the rollout that drew the completions. It is used where clips and weights are still the
                same, and emptied by a pass with gradient.
        """
        ...

    def per_token_logps(
        self,
        batch: ClipBatch,
        completions: TokenBatch,
        temperature: float = 1.0,
        *,
        prefix_cache: PrefixCache | None = None,
    ) -> Tensor:
        """Return the log-probs alone, ``(B, G, C)``."""
        ...

    def generate(
        self, batch: ClipBatch, num_generations: int, sampling: Sampling, generator: torch.Generator | None = None
    ) -> Rollout:
        """Draw ``num_generations`` completions of every clip in evaluation mode.

        The rollout's log-probs have no gradient. In training its ``prefix_cache`` may hold the prompts' pass with its
        graph, for :meth:`logps_and_entropies` of the same clips.
        """
        ...

    def disable_dropout(self) -> list[str]:
        """Switch off every dropout of the language model and the fusion; return the names of those that were on.

        Sampling runs without dropout: with it, log-probs would not be those of the policy that sampled.
        """
        ...

    def snapshot_reference(self) -> None:
        """Keep a frozen copy of the trainable weights, against which KL is measured."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Return a context in which the policy's weights are the reference's; no gradient may be taken in it.

        Raises:
            ConfigError: No reference was taken.
        """
        ...
