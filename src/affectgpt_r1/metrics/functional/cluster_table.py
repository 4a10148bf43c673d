"""A lexicon level as one array of bit masks, so that cluster sets are united and counted without a loop over words.

The clusters of the five wheels are bits of one number, wheel after wheel, cut into lanes of 64 bits. A word is a row of
lanes; the clusters of a set are the union of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain, compress, islice
from operator import is_not
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from affectgpt_r1.emotion.wheels import LEVELS, NUM_WHEELS, Lexicon
from affectgpt_r1.types import EmotionSet

Bits = npt.NDArray[np.uint64]
Sizes = npt.NDArray[np.uint16]
_LANE = 64
_UNKNOWN = 0
_MOST_SPELLINGS = 200_000
_LONGEST_SPELLING = 64


class RowIndex(dict[str, int]):
    """Row of each word form; row 0 is of words that the lexicon does not know.

    Spellings that differ in case or outer white space are looked up once and then cached, up to a bound.
    """

    def __missing__(self, word: str) -> int:
        row = self.get(word.strip().lower(), _UNKNOWN)
        if len(self) < _MOST_SPELLINGS and len(word) <= _LONGEST_SPELLING:
            self[word] = row
        return row


class WordTable(NamedTuple):
    """A lexicon as numbers, for figures that need more than one level: an entry for each word form."""

    entries: RowIndex  # entry of each form; 0 is of words that the lexicon does not know
    base: npt.NDArray[np.int64]  # number of each entry's base form, -1 where it has none
    synonym: npt.NDArray[np.int64]  # number of the word that represents its synonyms, -1 where it has none
    rows: tuple[npt.NDArray[np.int64], ...]  # row of each entry in the cluster table of each level


class WordSets(NamedTuple):
    """``N`` sets of words, one after another, as entries of a :class:`WordTable`."""

    entries: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]  # (N,)


class ClusterTable(NamedTuple):
    """A compiled level of a lexicon, ``R`` rows of ``L`` lanes."""

    rows: RowIndex
    masks: Bits  # (R, L): clusters of each word
    fields: Bits  # (5, L): bits that belong to each wheel


@lru_cache(maxsize=16)
def cluster_table(lexicon: Lexicon, level: int) -> ClusterTable:
    """Return the table of a ring of the wheels, 1 (inner) or 2, compiled on first use."""
    sizes = [len(lexicon.clusters(wheel, level)) for wheel in range(1, NUM_WHEELS + 1)]
    shifts = list(accumulate(sizes[:-1], initial=0))
    num_lanes = max(1, -(-sum(sizes) // _LANE))
    rows, numbers = RowIndex(), [0]
    row_of_masks = {(0,) * NUM_WHEELS: _UNKNOWN}
    for form, entry in lexicon.entries.items():
        masks = entry.level1 if level == LEVELS[0] else entry.level2
        # Words of the same clusters share a row.
        rows[form] = row_of_masks.setdefault(masks, len(numbers))
        if rows[form] == len(numbers):
            numbers.append(sum(mask << shift for mask, shift in zip(masks, shifts, strict=True)))
    fields = [((1 << size) - 1) << shift for size, shift in zip(sizes, shifts, strict=True)]
    return ClusterTable(rows, _lanes(numbers, num_lanes), _lanes(fields, num_lanes))


@lru_cache(maxsize=4)
def word_table(lexicon: Lexicon) -> WordTable:
    """Return the numbers of a lexicon, compiled on first use."""
    entries = RowIndex((form, entry) for entry, form in enumerate(lexicon.entries, start=1))
    numbers: dict[str, int] = {}
    base, synonym = (
        np.array(
            [-1, *(-1 if word is None else numbers.setdefault(word, len(numbers)) for word in words)], dtype=np.int64
        )
        for words in (
            [entry.base for entry in lexicon.entries.values()],
            [entry.synonym for entry in lexicon.entries.values()],
        )
    )
    rows = tuple(
        np.array([_UNKNOWN, *map(cluster_table(lexicon, level).rows.__getitem__, lexicon.entries)]) for level in LEVELS
    )
    return WordTable(entries, base, synonym, rows)


def word_sets(sets: Sequence[EmotionSet], table: WordTable) -> WordSets:
    """Look up every word of every set once."""
    words = np.fromiter(map(table.entries.__getitem__, chain.from_iterable(sets)), dtype=np.int64)
    return WordSets(words, np.fromiter(map(len, sets), dtype=np.int64, count=len(sets)))


def _lanes(numbers: Sequence[int], num_lanes: int) -> Bits:
    lanes = [[number >> (_LANE * lane) & (1 << _LANE) - 1 for lane in range(num_lanes)] for number in numbers]
    return np.array(lanes, dtype=np.uint64)


def word_rows(sets: Sequence[EmotionSet], table: ClusterTable) -> npt.NDArray[np.int64]:
    """Return the row of every word of every set, one after another; one hash per word."""
    return np.fromiter(map(table.rows.__getitem__, chain.from_iterable(sets)), dtype=np.int64)


def cluster_sets(sets: Sequence[EmotionSet], table: ClusterTable) -> Bits:
    """Return the clusters of each of ``N`` sets, ``(L, N)``."""
    return unite(word_rows(sets, table), np.fromiter(map(len, sets), dtype=np.int64, count=len(sets)), table)


def unite(rows: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], table: ClusterTable) -> Bits:
    """Return the clusters of ``N`` sets of ``sizes`` words, given the row of every word: ``(L, N)``."""
    filled = sizes > 0
    starts = (np.cumsum(sizes) - sizes)[filled]  # reduceat would give an empty set the row at its start
    union = np.zeros((table.masks.shape[1], len(sizes)), dtype=np.uint64)
    if len(starts):
        for lane, masks in zip(union, table.masks.T, strict=True):
            lane[filled] = np.bitwise_or.reduceat(masks.take(rows), starts)
    return union


def cluster_sets_of_runs(sets: Sequence[EmotionSet], table: ClusterTable) -> Bits:
    """Do as :func:`cluster_sets`, but unite a run of the same object, such as the target of a group, once."""
    begins = np.ones(len(sets), dtype=bool)
    begins[1:] = np.fromiter(map(is_not, sets, islice(sets, 1, None)), dtype=bool, count=max(0, len(sets) - 1))
    return cluster_sets(tuple(compress(sets, begins.tolist())), table).take(np.cumsum(begins) - 1, axis=1)


def set_sizes(sets: Bits, table: ClusterTable) -> Sizes:
    """Return the number of clusters on each wheel of ``N`` sets given as ``(L, N)`` bits: ``(5, N)``."""
    sizes = np.zeros((NUM_WHEELS, sets.shape[1]), dtype=np.uint16)
    for of_wheel, field in zip(sizes, table.fields, strict=True):
        for lane in np.flatnonzero(field):
            of_wheel += np.bitwise_count(sets[lane] & field[lane])
    return sizes
