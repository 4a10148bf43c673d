"""Strengths from pairwise preferences."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bradley_terry_strengths(wins: ArrayLike, *, prior: float = 0.5, iterations: int = 100) -> NDArray[np.float64]:
    """Return the maximum a posteriori strengths ``p`` of the model ``P(i beats j) = p_i / (p_i + p_j)``.

    Args:
        wins: ``(..., G, G)``; entry ``[i, j]`` is how often i was preferred to j, a tie being half a win for each.
            Absent players have zero rows and columns. The diagonal must be 0.
        prior: Wins and losses of each player against one of strength 1; above 0.
        iterations: Most updates; 8 players need about 20.

    Returns:
        ``(..., G)`` strengths, 1 for an absent player.

    >>> bradley_terry_strengths([[0.0, 2.0], [1.0, 0.0]]).round(3).tolist()
    [1.34, 0.746]
    """
    wins = np.asarray(wins, dtype=np.float64)
    played = wins + wins.swapaxes(-1, -2)  # n_ij
    # Without the prior a player that never loses has no finite strength, and strengths have no scale.
    won: NDArray[np.float64] = wins.sum(-1) + prior  # W_i
    strengths: NDArray[np.float64] = np.ones_like(won)
    for _ in range(iterations):
        # Minorisation-maximisation (Hunter, "MM algorithms for generalized Bradley-Terry models", 2004, equation 3):
        # p_i <- W_i / sum_j n_ij / (p_i + p_j), where the player of strength 1 adds 2 * prior / (p_i + 1) to the sum.
        pairs = played / (strengths[..., :, None] + strengths[..., None, :])
        updated = won / (pairs.sum(-1) + 2 * prior / (strengths + 1))
        settled = np.allclose(updated, strengths, rtol=1e-8, atol=0.0)
        strengths = updated
        if settled:
            break
    return strengths
