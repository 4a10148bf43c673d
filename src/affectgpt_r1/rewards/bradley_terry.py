"""Strengths from pairwise preferences."""

from __future__ import annotations

import torch
from torch import Tensor


def bradley_terry_strengths(wins: Tensor, *, prior: float = 0.5, iterations: int = 100) -> Tensor:
    """Maximum a posteriori strengths ``p`` of the model P(i beats j) = p_i / (p_i + p_j).

    Hunter's minorisation-maximisation ("MM algorithms for generalized Bradley-Terry models", 2004): with ``W_i`` the
    wins of i and ``n_ij`` the comparisons of i and j, repeat ``p_i <- W_i / sum_j n_ij / (p_i + p_j)``. A tie counts
    as half a win for each. Every player also has ``prior`` wins and ``prior`` losses against a player of strength 1:
    without them a player that never loses has no finite strength, and strengths have no scale. No randomness.

    Args:
        wins: ``(..., G, G)``; entry ``[i, j]`` is how often i was preferred to j. Absent players have zero rows and
            columns. The diagonal must be 0.
        prior: Wins and losses against the player of strength 1; above 0.
        iterations: Most updates; 8 players need about 20.

    Returns:
        ``(..., G)`` float64 strengths, 1 for an absent player.

    >>> bradley_terry_strengths(torch.tensor([[0.0, 1.0], [0.0, 0.0]])) .log().sum().abs() < 1e-6
    tensor(True)
    """
    wins = wins.double()
    played = wins + wins.transpose(-1, -2)
    won = wins.sum(-1) + prior
    strengths = torch.ones_like(won)
    for _ in range(iterations):
        pairs = played / (strengths.unsqueeze(-1) + strengths.unsqueeze(-2))
        updated = won / (pairs.sum(-1) + 2 * prior / (strengths + 1))
        settled = torch.allclose(updated, strengths, rtol=1e-8, atol=0.0)
        strengths = updated
        if settled:
            break
    return strengths
