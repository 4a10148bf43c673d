"""Softmax attention that also returns its log-normaliser, so that parts over disjoint keys can be merged.

On the CPU both directions are torch's fused kernels; elsewhere they are plain matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from affectgpt_r1.engine.precision import exact_dtype, exact_matmul


def attention_forward(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention and its log-normaliser.

    Args:
        query: ``(n, H, q, d)``.
        key: ``(n, H, k, d)``.
        value: ``(n, H, k, d)``.
        scale: Multiplies the scores.
        causal: Query ``i`` sees keys up to ``i``; needs ``q == k``.
        bias: ``(n, 1, 1, k)`` added to the scores.

    Returns:
        The output ``(n, H, q, d)``, and the logsumexp of the scores over the keys ``(n, H, q)``.
    """
    if query.device.type == "cpu":
        output, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias, scale=scale
        )
        return output, normalizer
    return plain_attention_forward(query, key, value, scale=scale, causal=causal, bias=bias)


def attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normalizer: Tensor,
    *,
    scale: float,
    causal: bool,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    ``output`` and ``normalizer`` may be those of a softmax over more keys than ``key``: the probabilities
    ``exp(scores - normalizer)`` and the row term ``sum(gradient * output)`` are then the whole softmax's, and the
    gradients are this part's exact share of it (Liu et al. 2023, ring attention).

    Args:
        gradient: ``(n, H, q, d)`` with respect to ``output``.
        query: ``(n, H, q, d)``.
        key: ``(n, H, k, d)``.
        value: ``(n, H, k, d)``.
        output: ``(n, H, q, d)``.
        normalizer: ``(n, H, q)``.
        scale: As in :func:`attention_forward`.
        causal: As in :func:`attention_forward`.
        bias: As in :func:`attention_forward`.
    """
    if query.device.type == "cpu":
        gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, output, normalizer, 0.0, causal, attn_mask=bias, scale=scale
        )
        return gradients
    return plain_attention_backward(
        gradient, query, key, value, output, normalizer, scale=scale, causal=causal, bias=bias
    )


def _exact(values: Tensor) -> Tensor:
    """At least single precision, in which exponentials and sums are taken."""
    return values.to(exact_dtype(values.dtype))


def _scores(query: Tensor, key: Tensor, scale: float, causal: bool, bias: Tensor | None) -> Tensor:
    # Qwen2's key and query biases take raw scores beyond 65,504, where bfloat16's steps are 256 and more.
    scores = exact_matmul(query, key.transpose(-1, -2)).mul_(scale)  # in place: as many as queries times keys
    if bias is not None:
        scores.add_(bias)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores.masked_fill_(later, -torch.inf)
    return scores


def plain_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """:func:`attention_forward` by matrix products, for any device; autograd cannot look into it."""
    scores = _scores(query, key, scale, causal, bias)
    normalizer = scores.logsumexp(-1)
    return scores.sub_(normalizer.unsqueeze(-1)).exp_().to(value.dtype) @ value, normalizer


def plain_attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normalizer: Tensor,
    *,
    scale: float,
    causal: bool,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`attention_backward` by matrix products, for any device."""
    probabilities = _scores(query, key, scale, causal, bias).sub_(normalizer.unsqueeze(-1)).exp_()
    row_term = (_exact(gradient) * _exact(output)).sum(-1, keepdim=True)
    score_gradient = exact_matmul(gradient, value.transpose(-1, -2)).sub_(row_term).mul_(probabilities).mul_(scale)
    score_gradient = score_gradient.to(query.dtype)
    return (
        score_gradient @ key,
        score_gradient.transpose(-1, -2) @ query,
        probabilities.to(value.dtype).transpose(-1, -2) @ gradient,
    )
