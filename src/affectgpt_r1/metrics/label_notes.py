"""What may be wrong with labels that are about to be scored: said in a line each, since a score shows none of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.types import EmotionSet

_MOST_UNMAPPED = 0.2  # of the words; 0.06 to 0.15 in the labels of three published models, published lexicons
_MOST_META = 0.05
_SHOWN = 10
_SEPARATORS = {";": "';'", "|": "'|'", "/": "'/'", "\n": "line breaks", "\u3001": "'\u3001'", "\uff0c": "'\uff0c'"}
_META = re.compile(
    "emotions?|emotional|feelings?|mood|sentiment|state|unknown|none|null|nan|n/a|others?|unclear|mixed|multiple|"
    "undefined|label|answer",
    re.IGNORECASE,
)
"""Words about emotions that name none; some have a cluster on a wheel."""


class UnmappedWords(NamedTuple):
    """Words that no wheel knows, with duplicates."""

    num_unmapped: int
    num_words: int
    commonest: list[tuple[str, int]]  # at most ten

    def __str__(self) -> str:
        words = ", ".join(f"{word} ({count})" for word, count in self.commonest)
        words_map = counted(self.num_words, "word maps", "words map")
        return f"{self.num_unmapped} of {words_map} onto no wheel{': ' * bool(words)}{words}"


def unmapped_words(labels: Sequence[EmotionSet], lexicon: Lexicon) -> UnmappedWords:
    """Count the words of ``N`` samples that map onto no wheel.

    >>> from affectgpt_r1.emotion.lexicon import load_lexicon
    >>> str(unmapped_words([("happy", "zzz"), ("zzz",)], load_lexicon("bundled")))
    '2 of 3 words map onto no wheel: zzz (2)'
    """
    return _unmapped(Counter(chain.from_iterable(labels)), lexicon)


def _unmapped(words: Counter[str], lexicon: Lexicon) -> UnmappedWords:
    unmapped = Counter({word: count for word, count in words.items() if word not in lexicon})
    return UnmappedWords(unmapped.total(), words.total(), unmapped.most_common(_SHOWN))


def label_notes(labels: Sequence[EmotionSet], lexicon: Lexicon, what: str) -> list[str]:
    """Return a line for each thing that is probably not meant.

    Args:
        labels: Of ``N`` samples.
        lexicon: Which words count.
        what: Whose labels they are, such as ``"predictions"``.
    """
    notes = []
    words = Counter(chain.from_iterable(labels))
    num_words = words.total()
    if not num_words:
        return [f"{what}: no sample has a label."]
    blank = sum(not sample for sample in labels)
    if 2 * blank > len(labels):
        notes.append(f"{what}: {blank} of {counted(len(labels), 'sample has', 'samples have')} no label.")
    notes += _separator_notes(words, lexicon, what)
    foreign = sum(count for word, count in words.items() if word.strip() and not word.isascii())
    if 2 * foreign > num_words:
        words_are = counted(num_words, "word is", "words are")
        notes.append(f"{what}: {foreign} of {words_are} not in Latin letters; the lexicons are English.")
    meta = Counter({word: count for word, count in words.items() if _META.fullmatch(word.strip())})
    if meta.total() > _MOST_META * num_words:
        notes.append(f"{what}: {counted(meta.total(), 'word names', 'words name')} no emotion: {_listed(meta)}.")
    unmapped = _unmapped(words, lexicon)
    if unmapped.num_unmapped > _MOST_UNMAPPED * num_words:
        notes.append(f"{what}: {unmapped}; such words are not scored.")
    return notes


def _separator_notes(words: Counter[str], lexicon: Lexicon, what: str) -> list[str]:
    """Look for labels that hold several words: split by another mark, more of their parts would be in the lexicon."""
    notes = []
    everything = "".join(words)
    for mark, name in _SEPARATORS.items():
        if mark not in everything:
            continue
        joined = Counter({word: count for word, count in words.items() if mark in word.strip()})
        parts = [part.strip() for word in joined for part in word.split(mark)]
        known = sum(part in lexicon for part in parts)
        if joined.total() > 0.05 * words.total() and 2 * known > len(parts):
            first = next(iter(joined))
            notes.append(
                f"{what}: the labels seem to be separated by {name}, as in {first!r}; put commas between them."
            )
    sentences = sum(count for word, count in words.items() if word.count(" ") > 4)
    if 5 * sentences > words.total():
        labels_are = counted(sentences, "label is a sentence", "labels are sentences")
        notes.append(f"{what}: {labels_are}; name free text by --columns reason=COLUMN.")
    return notes


def _listed(words: Counter[str]) -> str:
    return ", ".join(f"{word} ({count})" for word, count in words.most_common(_SHOWN))
