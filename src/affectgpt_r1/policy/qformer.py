"""The Q-Former of BLIP-2 (Li et al. 2023) as AffectGPT trims it: queries that read a sequence by cross-attention.

Two BERT layers of queries alone; the text half of BLIP-2's layers, its word embeddings and its head are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN_SIZE = 768
NUM_HEADS = 12
NUM_LAYERS = 2
DROPOUT = 0.1
NORM_EPSILON = 1e-12
INITIALIZER_RANGE = 0.02  # BERT-base's values, which the published Q-Formers are built from


class QueryAttention(nn.Module):
    """Multi-head attention of queries on a context, with residual and layer norm."""

    def __init__(self, hidden_size: int, context_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(context_size, hidden_size)
        self.value = nn.Linear(context_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Return ``(N, Q, hidden_size)`` for queries of that shape and ``(N, T, context_size)``."""
        query, key, value = map(self._heads, (self.query(queries), self.key(context), self.value(context)))
        dropout = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).flatten(2)
        normed: Tensor = self.norm(queries + self.dropout(self.output(mixed)))
        return normed

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)


class QueryLayer(nn.Module):
    """Self-attention, cross-attention and the queries' feed-forward layer, each with a layer norm."""

    def __init__(self, hidden_size: int, context_size: int, num_heads: int) -> None:
        super().__init__()
        self.self_attention = QueryAttention(hidden_size, hidden_size, num_heads)
        self.cross_attention = QueryAttention(hidden_size, context_size, num_heads)
        self.intermediate = nn.Linear(hidden_size, 4 * hidden_size)
        self.output = nn.Linear(4 * hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Return ``(N, Q, hidden_size)`` for queries of that shape and ``(N, T, context_size)``."""
        queries = self.cross_attention(self.self_attention(queries, queries), context)
        update = self.dropout(self.output(F.gelu(self.intermediate(queries))))
        normed: Tensor = self.norm(queries + update)
        return normed


class QFormer(nn.Module):
    """``num_queries`` learned queries read a sequence with learned positions."""

    def __init__(
        self,
        context_size: int,
        num_queries: int,
        num_positions: int,
        hidden_size: int = HIDDEN_SIZE,
        num_heads: int = NUM_HEADS,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.positions = nn.Embedding(num_positions, context_size)
        self.queries = nn.Parameter(torch.empty(1, num_queries, hidden_size).normal_(std=INITIALIZER_RANGE))
        self.norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(QueryLayer(hidden_size, context_size, num_heads) for _ in range(NUM_LAYERS))

    def forward(self, context: Tensor) -> Tensor:
        """Read ``(N, T, context_size)``; return ``(N, Q, hidden_size)``."""
        context = context + self.positions.weight[: context.shape[1]]
        queries: Tensor = self.dropout(self.norm(self.queries)).expand(context.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, context)
        return queries
