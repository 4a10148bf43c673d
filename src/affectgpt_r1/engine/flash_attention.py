"""Softmax attention that also returns its log-normaliser, so that parts over disjoint keys can be merged.

With scores ``s``, normaliser ``L = logsumexp(s)`` and output ``o = sum_k exp(s_k - L) v_k``, two parts are one softmax
(Dao et al. 2022, arXiv 2205.14135; Liu et al. 2023, arXiv 2310.01889): ``L = logaddexp(L1, L2)`` and
``o = exp(L1 - L) o1 + exp(L2 - L) o2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from affectgpt_r1.engine.precision import exact_dtype, exact_matmul


def attention_forward(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, causal: bool, bias: Tensor | None, plain: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the output ``(n, H, q, d)`` and the log-normaliser ``(n, H, q)``.

    Args:
        query: ``(n, H, q, d)``.
        key: ``(n, H, k, d)``.
        value: ``(n, H, k, d)``.
        scale: Multiplies the scores.
        causal: Query ``i`` sees keys up to ``i``; needs ``q == k``.
        bias: ``(n, 1, 1, k)`` added to the scores.
        plain: Multiply matrices on a CPU, too.
    """
    # The CPU has torch's fused kernel, which scaled_dot_product_attention calls, too, but without its normaliser.
    if query.device.type == "cpu" and not plain:
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
    plain: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value, from that of ``output`` and the inputs of the forward pass.

    ``output`` and ``normalizer`` may be those of a softmax over more keys than ``key``.
    """
    # p = exp(s - L) and the row term sum(do * o) are then those of the full softmax, and the gradients are exactly what
    # this part of the keys contributes to its own (Liu et al. 2023, ring attention).
    if query.device.type == "cpu" and not plain:
        gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, output, normalizer, 0.0, causal, attn_mask=bias, scale=scale
        )
        return gradients
    return plain_attention_backward(
        gradient, query, key, value, output, normalizer, scale=scale, causal=causal, bias=bias
    )


def _scores(query: Tensor, key: Tensor, scale: float, causal: bool, bias: Tensor | None) -> Tensor:
    # Qwen2's key and query biases take raw scores beyond 65,504, where bfloat16's steps are 256 and more: the product
    # is returned in single precision.
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
    """:func:`attention_forward` by matrix products, for any device; in place, so autograd must not look into it."""
    scores = _scores(query, key, scale, causal, bias)
    normalizer = scores.logsumexp(-1)
    # exp(s - L) is the softmax, normalised before the product with the values.
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
    exact = exact_dtype(gradient.dtype)
    probabilities = _scores(query, key, scale, causal, bias).sub_(normalizer.unsqueeze(-1)).exp_()
    # sum_k p_k dp_k = sum(do * o): the softmax's row term without a second pass over the keys (FlashAttention, eq. 4).
    row_term = (gradient.to(exact) * output.to(exact)).sum(-1, keepdim=True)
    # ds = scale * p * (do v^T - row term); dq = ds k, dk = ds^T q, dv = p^T do.
    score_gradient = exact_matmul(gradient, value.transpose(-1, -2)).sub_(row_term).mul_(probabilities).mul_(scale)
    score_gradient = score_gradient.to(query.dtype)
    return (
        score_gradient @ key,
        score_gradient.transpose(-1, -2) @ query,
        probabilities.to(value.dtype).transpose(-1, -2) @ gradient,
    )
