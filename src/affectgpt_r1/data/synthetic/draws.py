"""Draws that are the same on every machine.

Only ``Generator.random`` is used: a 53-bit integer divided by 2^53, with no library function behind it,
so that labels do not depend on a platform's ``exp`` or ``log``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Chance:
    """A stream of draws keyed by integers, such as (seed, split, clip number)."""

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def happens(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.uniform() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One item, each as likely."""
        return items[int(self.uniform() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All items in a drawn order (Fisher-Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = int(self.uniform() * (last + 1))
            order[last], order[other] = order[other], order[last]
        return order

    def bell(self, deviation: float) -> float:
        """A near-normal draw around 0: the sum of four uniforms, bounded by 3.5 deviations."""
        total = sum(self.uniform(-1.0, 1.0) for _ in range(4))
        return deviation * total * 0.8660254037844386  # sqrt(3/4), as each uniform has variance 1/3
