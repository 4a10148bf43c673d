"""Token log-probabilities and masked reductions."""

from __future__ import annotations

import torch
from torch import Tensor


def selective_log_softmax(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each chosen token.

    Args:
        logits: ``(..., V)``.
        ids: ``(...)`` int64.

    Returns:
        ``(...)`` log-probabilities in float32.
    """
    logits = logits.float()
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def entropy_from_logits(logits: Tensor) -> Tensor:
    """Shannon entropy in nats of the distribution over the last dimension.

    Args:
        logits: ``(..., V)``.

    Returns:
        ``(...)`` entropies in float32.
    """
    logps = torch.log_softmax(logits.float(), dim=-1)
    return -(logps.exp() * logps).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is 1; 0 where nothing is.

    Args:
        values: Any shape.
        mask: The same shape, 0 or 1.

    Returns:
        A scalar.
    """
    return (values * mask).sum() / mask.sum().clamp(min=1.0)
