"""A sampler whose order depends on (seed, epoch) alone, so that a resumed run continues it exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class SampleKey:
    """What a dataset needs to yield a clip: which one, and the epoch that its random draws belong to."""

    index: int
    epoch: int


class ResumableSampler(Sampler[SampleKey]):
    """Deals the clips of an epoch to replicas and can start in the middle.

    Lightning calls ``set_epoch``. ``len()`` is the whole epoch's even after :meth:`start_at`, because Lightning counts
    a resumed epoch's batches from where it stopped.

    Args:
        length: Number of clips.
        seed: Seed of the order.
        shuffle: Draw a new order every epoch; else keep the given one.
        batch_size: Clips of a batch; :meth:`start_at` counts in batches.
        num_replicas: Number of processes.
        rank: This process.
        equal_shares: Repeat the epoch's first clips until every replica has equally many, which collective
            operations in training need. Without it nothing repeats, and shares may differ by one.

    Example:
        >>> sampler = ResumableSampler(4, seed=0, shuffle=False, batch_size=2)
        >>> [key.index for key in sampler]
        [0, 1, 2, 3]
        >>> sampler.start_at(epoch=0, batch=1)
        >>> [key.index for key in sampler], len(sampler)
        ([2, 3], 4)
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        shuffle: bool,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        equal_shares: bool = True,
    ) -> None:
        self._length = length
        self._seed = seed
        self._shuffle = shuffle
        self._batch_size = batch_size
        self._num_replicas = num_replicas
        self._rank = rank
        self._equal_shares = equal_shares
        self._epoch = 0
        self._started_epoch = -1
        self._first = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields."""
        self._epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Let iterations of ``epoch`` leave out its first ``batch`` batches; other epochs stay whole."""
        self._started_epoch = epoch
        self._first = batch * self._batch_size

    def __len__(self) -> int:
        return len(range(self._rank, self._dealt, self._num_replicas))

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self._epoch
        order = np.arange(self._length)
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._length)
        mine = np.resize(order, self._dealt)[self._rank :: self._num_replicas]
        first = self._first if self._started_epoch == epoch else 0
        return (SampleKey(int(index), epoch) for index in mine[first:])

    @property
    def _dealt(self) -> int:
        if not self._equal_shares:
            return self._length
        return -(-self._length // self._num_replicas) * self._num_replicas
