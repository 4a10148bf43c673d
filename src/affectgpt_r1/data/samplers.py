"""Samplers whose order depends on (seed, epoch) alone, so that a resumed run continues exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from affectgpt_r1.errors import ConfigError


@dataclass(frozen=True)
class SampleKey:
    """Index of a clip, and the epoch of its random draws."""

    index: int
    epoch: int


class GenerationSchedule(NamedTuple):
    """How training steps share one generation batch."""

    steps_per_generation: int = 1  # batches that are drawn together
    num_iterations: int = 1  # passes over them

    @property
    def steps(self) -> int:
        """Training steps that visit one generation batch."""
        return self.steps_per_generation * self.num_iterations


class ClipSampler(Sampler[SampleKey]):
    """Divide the clips of an epoch among replicas.

    Args:
        length: Number of clips.
        seed: Seed of the order.
        shuffle: Draw a new order every epoch; else keep the given one.
        num_replicas: Number of processes.
        rank: This process.
        even: Repeat the epoch's first clips until every replica has equally many, which collective operations in
            training need. Without it nothing repeats, and the numbers may differ by one.

    Attributes:
        epoch: Whose order the next iteration yields.

    Example:
        >>> [key.index for key in ClipSampler(5, seed=0, shuffle=False, num_replicas=2, rank=1)]
        [1, 3, 0]
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        shuffle: bool,
        num_replicas: int = 1,
        rank: int = 0,
        even: bool = True,
    ) -> None:
        self.epoch = 0
        self._length = length
        self._seed = seed
        self._shuffle = shuffle
        self.num_replicas = num_replicas
        self.rank = rank
        self._even = even

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.rank, self._padded_length, self.num_replicas))

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self.epoch
        order = np.arange(self._length)
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._length)
        local = np.resize(order, self._padded_length)[self.rank :: self.num_replicas]
        return (SampleKey(int(index), epoch) for index in local)

    @property
    def _padded_length(self) -> int:
        if not self._even:
            return self._length
        return -(-self._length // self.num_replicas) * self.num_replicas


class GenerationBatchSampler(Sampler[list[SampleKey]]):
    """Yield the clips of a generation batch, then an empty batch for each further step that uses them.

    The empty batches keep the Trainer's count of batches, and with it clipping, accumulation and schedules, while no
    clip is read twice. As TRL's sampler, it leaves out the clips of an epoch that do not fill a generation of several
    steps. ``len()`` is that of a complete epoch even after :meth:`start_at`, because Lightning counts a resumed epoch's
    batches from where it stopped.

    Args:
        sampler: Divides the clips among processes.
        batch_size: Clips of a training step.
        schedule: Steps of a generation.

    Raises:
        ConfigError: The epoch fills no generation.

    Example:
        >>> clips = ClipSampler(5, seed=0, shuffle=False)
        >>> batches = GenerationBatchSampler(clips, 1, GenerationSchedule(steps_per_generation=2, num_iterations=2))
        >>> [[key.index for key in batch] for batch in batches]
        [[0, 1], [], [], [], [2, 3], [], [], []]
    """

    def __init__(self, sampler: ClipSampler, batch_size: int, schedule: GenerationSchedule) -> None:
        self.sampler = sampler  # the Trainer calls its set_epoch
        self._schedule = schedule
        self._size = batch_size * schedule.steps_per_generation
        self._resumed_epoch, self._first = -1, 0
        if not len(self):
            raise ConfigError(
                f"{len(sampler)} training clips per process do not fill a generation of {self._size}: lower "
                "data.batch_size or stage.steps_per_generation"
            )

    def start_at(self, epoch: int, batch: int) -> None:
        """Let iterations of ``epoch`` leave out its first ``batch`` batches; other epochs stay complete."""
        self._resumed_epoch, self._first = epoch, batch

    def __len__(self) -> int:
        return self._generations * self._schedule.steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        keys = list(self.sampler)
        for number in range(self.first_batch, len(self)):
            generation, step = divmod(number, self._schedule.steps)
            yield [] if step else keys[generation * self._size : (generation + 1) * self._size]

    @property
    def first_batch(self) -> int:
        """Number of the batch at which the current epoch begins."""
        return self._first if self.sampler.epoch == self._resumed_epoch else 0

    @property
    def _generations(self) -> int:
        full, rest = divmod(len(self.sampler), self._size)
        return full + bool(rest and self._schedule.steps_per_generation == 1)
