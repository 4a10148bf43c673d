"""A second stream of labelled clips in each training batch, for a supervised loss next to the sampled one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from affectgpt_r1.data.collate import collate
from affectgpt_r1.data.dataset import ClipDataset
from affectgpt_r1.data.samplers import ClipSampler, GenerationBatchSampler, GenerationSchedule, SampleKey
from affectgpt_r1.types import Clip, ClipBatch, UnreadableClip

_STREAM = 1  # of the seed: an order of its own where both streams read the same clips


class SupervisedKey(SampleKey):
    """Index and epoch of a clip of the second stream."""


class SupervisedClip(NamedTuple):
    """An item of the second stream."""

    clip: Clip | UnreadableClip


class MixedDataset(Dataset["Clip | UnreadableClip | SupervisedClip"]):
    """Clips of both streams, told apart by their keys."""

    def __init__(self, sampled: ClipDataset, supervised: ClipDataset) -> None:
        self.sampled, self.supervised = sampled, supervised

    def __len__(self) -> int:
        return len(self.sampled)

    def __getitem__(self, key: SampleKey) -> Clip | UnreadableClip | SupervisedClip:
        """Read one clip."""
        if isinstance(key, SupervisedKey):
            return SupervisedClip(self.supervised[key])
        return self.sampled[key]


class MixedBatchSampler(GenerationBatchSampler):
    """Add ``supervised_size`` clips of the second stream to every batch, also to those that sample nothing.

    The second stream passes over its clips again and again, whatever the epochs of the first. Its place follows from
    the number of the batch alone, so that a resumed run needs no state of it.

    Args:
        sampler: Divides the clips of the first stream among processes.
        batch_size: Clips of a training step.
        schedule: Steps of a generation.
        num_supervised: Clips of the second stream.
        supervised_size: Clips of it in a batch, per process.
        seed: Seed of its order.
    """

    def __init__(
        self,
        sampler: ClipSampler,
        batch_size: int,
        schedule: GenerationSchedule,
        *,
        num_supervised: int,
        supervised_size: int,
        seed: int,
    ) -> None:
        super().__init__(sampler, batch_size, schedule)
        self._num_supervised, self._supervised_size = num_supervised, supervised_size

        @lru_cache(maxsize=2)  # a batch may end one pass and begin the next
        def order(number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.random.default_rng((seed, number, _STREAM)).permutation(num_supervised)

        self._order = order

    def __iter__(self) -> Iterator[list[SampleKey]]:
        before = self.sampler.epoch * len(self)
        for number, keys in enumerate(super().__iter__(), start=self.first_batch):
            yield [*keys, *self._supervised_keys(before + number)]

    def _supervised_keys(self, number: int) -> list[SupervisedKey]:
        replicas, rank = self.sampler.num_replicas, self.sampler.rank
        places = ((number * self._supervised_size + clip) * replicas + rank for clip in range(self._supervised_size))
        passes = (divmod(place, self._num_supervised) for place in places)
        return [SupervisedKey(int(self._order(epoch)[index]), epoch) for epoch, index in passes]


def collate_mixed(items: Sequence[Clip | UnreadableClip | SupervisedClip]) -> ClipBatch:
    """Collate the first stream, and the second in ``supervised``; ``unreadable`` lists the clips of both."""
    batch = collate([item for item in items if not isinstance(item, SupervisedClip)])
    supervised = collate([item.clip for item in items if isinstance(item, SupervisedClip)])
    unreadable = (*batch.unreadable, *supervised.unreadable)
    return dataclasses.replace(batch, unreadable=unreadable, supervised=dataclasses.replace(supervised, unreadable=()))
