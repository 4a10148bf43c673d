"""Token log-probs and entropies from logits, in at least single precision, and masked means."""

from __future__ import annotations

import torch
from torch import Tensor

from affectgpt_r1.engine.precision import exact_dtype


def selective_log_softmax(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-prob ``(...)`` of each token ``ids`` ``(...)`` from logits ``(..., V)``."""
    # log softmax(s)[y] = s_y - logsumexp(s); of V log-probs only one is needed.
    logits = logits.to(exact_dtype(logits.dtype))
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def entropy_from_logits(logits: Tensor) -> Tensor:
    """Return the Shannon entropy ``(...)`` in nats of ``softmax(logits)``, ``(..., V)``."""
    logps = torch.log_softmax(logits.to(exact_dtype(logits.dtype)), dim=-1)
    return -(logps.exp() * logps).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` where ``mask`` is 1; 0 if nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1.0)
