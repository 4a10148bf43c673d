"""The compiled lexicon: emotion words to clusters of five emotion wheels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

NUM_WHEELS = 5
LEVELS = (1, 2)
UNMAPPED = (0,) * NUM_WHEELS


class Entry(NamedTuple):
    """What one word form maps to."""

    base: str
    synonym: str | None
    level1: tuple[int, ...]  # on each wheel the bit of the word's cluster, 0 where it has none
    level2: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Word forms, their base forms, and their clusters on five wheels at two levels. Words match without case."""

    name: str  # in reports
    cluster_names: tuple[tuple[tuple[str, ...], ...], ...] = field(repr=False)  # [level - 1][wheel - 1][bit]
    entries: Mapping[str, Entry] = field(repr=False)  # by word form, in lower case

    @cached_property
    def digest(self) -> str:
        """A digest of every word's clusters."""
        content = repr((self.cluster_names, sorted(self.entries.items())))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    # By digests: tables are cached by lexicon, which a run loads several times, and to compare all entries at each use
    # would take ten times as long as to score a batch.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lexicon):
            return NotImplemented
        return self is other or (self.name == other.name and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.name)

    def masks(self, word: str, level: int = 1) -> tuple[int, ...]:
        """Return the cluster bit of ``word`` on each wheel, 0 where it has none, at level 1 (inner ring) or 2."""
        entry = self.entries.get(_normalise(word))
        if level not in LEVELS:
            raise ValueError(f"level must be 1 or 2, not {level!r}")
        if entry is None:
            return UNMAPPED
        return entry.level1 if level == 1 else entry.level2

    def cluster(self, word: str, wheel: int, level: int = 1) -> str | None:
        """Return the cluster of ``word`` on ``wheel`` (1 to 5), None where it has none."""
        names = self.clusters(wheel, level)
        mask = self.masks(word, level)[wheel - 1]
        return names[mask.bit_length() - 1] if mask else None

    def clusters(self, wheel: int, level: int = 1) -> tuple[str, ...]:
        """Return the names of the clusters of ``wheel`` (1 to 5), in alphabetical order.

        Raises:
            ValueError: There is no such wheel or level.
        """
        if level not in LEVELS or not 1 <= wheel <= NUM_WHEELS:
            raise ValueError(f"there is no wheel {wheel!r} with level {level!r}: wheels are 1 to 5, levels 1 and 2")
        return self.cluster_names[level - 1][wheel - 1]

    def base_form(self, word: str) -> str | None:
        """Return the base form of ``word`` (case 1 of the metric), None if the lexicon does not know it."""
        entry = self.entries.get(_normalise(word))
        return entry.base if entry else None

    def synonym(self, word: str) -> str | None:
        """Return the word that represents the synonyms of ``word`` (case 2 of the metric), None if unknown."""
        entry = self.entries.get(_normalise(word))
        return entry.synonym if entry else None

    def __contains__(self, word: object) -> bool:
        """Return whether ``word`` has a cluster on any wheel at level 1."""
        entry = self.entries.get(_normalise(word)) if isinstance(word, str) else None
        return entry is not None and any(entry.level1)

    def __len__(self) -> int:
        return len(self.entries)


def _normalise(word: str) -> str:
    return word.strip().lower()
