"""A sampler whose order depends on (seed, epoch) alone, so that a resumed run continues it exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from affectgpt_r1.errors import ConfigError


@dataclass(frozen=True)
class SampleKey:
    """What a dataset needs to yield a clip: which one, and the epoch that its random draws belong to."""

    index: int
    epoch: int


class GenerationSchedule(NamedTuple):
    """How training steps share what was sampled at once."""

    steps_per_generation: int = 1  # batches that are drawn together
    num_iterations: int = 1  # passes over them

    @property
    def steps(self) -> int:
        """Training steps that visit one generation batch."""
        return self.steps_per_generation * self.num_iterations


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

    @property
    def is_resumed_epoch(self) -> bool:
        """Whether the next iteration is of the epoch that :meth:`start_at` named."""
        return self._started_epoch == self._epoch

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


class GenerationBatchSampler(Sampler[list[SampleKey]]):
    """Batches of an epoch: the clips of a whole generation, then an empty batch for each further step that uses them.

    The empty batches keep the Trainer's count of batches, and with it clipping, accumulation and schedules, while no
    clip is read twice. As TRL's sampler, it leaves out the clips of an epoch that fill no whole generation, where a
    generation has several steps.

    Args:
        sampler: Deals the clips.
        batch_size: Clips of a training step.
        schedule: Steps of a generation.

    Raises:
        ConfigError: The epoch fills no generation.

    Example:
        >>> clips = ResumableSampler(5, seed=0, shuffle=False, batch_size=1)
        >>> batches = GenerationBatchSampler(clips, 1, GenerationSchedule(steps_per_generation=2, num_iterations=2))
        >>> [[key.index for key in batch] for batch in batches]
        [[0, 1], [], [], [], [2, 3], [], [], []]
    """

    def __init__(self, sampler: ResumableSampler, batch_size: int, schedule: GenerationSchedule) -> None:
        self.sampler = sampler  # the Trainer calls its set_epoch
        self._schedule = schedule
        self._size = batch_size * schedule.steps_per_generation
        self._first = 0
        if not len(self):
            raise ConfigError(
                f"{len(sampler)} training clips a process fill no generation of {self._size}: lower data.batch_size or "
                "stage.steps_per_generation"
            )

    def start_at(self, epoch: int, batch: int) -> None:
        """Let iterations of ``epoch`` leave out its first ``batch`` batches; other epochs stay whole."""
        self._first = batch
        self.sampler.start_at(epoch, 0)

    def __len__(self) -> int:
        return self._generations * self._schedule.steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        keys = list(self.sampler)
        first = self._first if self.sampler.is_resumed_epoch else 0
        for number in range(first, len(self)):
            generation, step = divmod(number, self._schedule.steps)
            yield [] if step else keys[generation * self._size : (generation + 1) * self._size]

    @property
    def _generations(self) -> int:
        whole, rest = divmod(len(self.sampler), self._size)
        return whole + bool(rest and self._schedule.steps_per_generation == 1)
