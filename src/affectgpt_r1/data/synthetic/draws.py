"""Random draws that are the same on every machine, under the names of :class:`numpy.random.Generator`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class PortableGenerator:
    """A stream of draws keyed by integers, such as (seed, split, clip number).

    Every draw comes from ``Generator.random``, a 53-bit integer over 2^53: numpy's own ``normal`` and ``choice`` call
    the platform's ``exp`` and ``log``, or change between its versions.
    """

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def random(self) -> float:
        """Draw a float in [0, 1)."""
        return float(self._generator.random())

    def uniform(self, low: float, high: float) -> float:
        """Draw a float in [low, high)."""
        return low + (high - low) * self.random()

    def choice(self, items: Sequence[Item]) -> Item:
        """Draw one item, each as likely."""
        return items[int(self.random() * len(items))]

    def permutation(self, items: Sequence[Item]) -> list[Item]:
        """Return all items in a drawn order (Fisher-Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            swapped = int(self.random() * (last + 1))
            order[last], order[swapped] = order[swapped], order[last]
        return order

    def normal(self, scale: float) -> float:
        """Draw a near-normal value around 0: the sum of four uniforms, within 3.5 standard deviations ``scale``."""
        total = sum(self.uniform(-1.0, 1.0) for _ in range(4))
        return scale * total * 0.8660254037844386  # sqrt(3/4): each uniform in [-1, 1) has variance 1/3
