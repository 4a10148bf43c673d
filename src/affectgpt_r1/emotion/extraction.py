"""Emotion words of free text, offline: a well-formed answer is parsed, anything else is searched for known forms.

The search takes the longest form of the lexicon at each word, within a clause. A form is negated, and skipped, if a
negation stands before it with nothing between but words that carry a negation on ("not very happy", "isn't afraid",
"no longer sad", "no sign of anger"). So is the rest of a list that such a form opens, as far as its last "or", "nor" or
"and" ("no anger, fear or sadness"), and without one after a negation of nouns ("without anger, fear"), but not after
others ("not happy, sad"). What is said with other means ("far from happy", "couldn't be happier") is not understood.

One pass over the words: a megabyte takes about a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.types import EmotionSet


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD_OR_MARK = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*|[^\s]")
_HYPHENS = frozenset("-\u2010\u2011_")
_NEGATIONS = _words(
    "not no never nor neither without cannot hardly barely scarcely lacks lacking lack absence nothing none "
    "isnt arent wasnt werent dont doesnt didnt cant couldnt wont wouldnt hasnt havent hadnt shouldnt"
)
_CARRIERS = _words(
    "a an the any at all as so too very really truly quite particularly especially even longer much more that in of "
    "from be been being is are was were feel feels feeling felt look looks looking looked seem seems seeming seemed "
    "sound sounds sounding sounded appear appears appearing appeared become becoming get getting show shows showing "
    "express expresses expressing have having to sign signs trace traces hint hints sense evidence "
    "obviously clearly visibly overly entirely completely anymore him her them it he she they"
)
_OF_NOUNS = _words("no without neither lacks lacking lack absence")
_OF_TIME = frozenset(("longer", "more"))
_COMMA = ","
_ALTERNATIVES = frozenset(("or", "nor"))
_CONJUNCTIONS = _ALTERNATIVES | {"and"}
_DETERMINERS = _words(
    "a an the any even very really particularly especially much of sign signs trace traces hint hints sense evidence"
)
_FARTHEST_NEGATION = 7


class Extraction(NamedTuple):
    """What free text says."""

    labels: EmotionSet
    """Emotion words in order; those that were searched for are distinct and spelt as in the lexicon."""
    negated: tuple[str, ...]
    """Skipped spans in order, from the negation to the form, in lower case."""
    source: Literal["answer", "text", "chat"]
    """Whether a well-formed answer was parsed, the text was searched, or a chat model was asked."""


class _Forms(NamedTuple):
    form_of: dict[str, str]  # words joined by one blank -> form of the lexicon
    longest: dict[str, int]  # first word -> number of words of the longest form that it opens


def extract_labels(text: str, lexicon: Lexicon) -> Extraction:
    """Emotion words of ``text``.

    A completion in the format of either prompt mode is parsed strictly. Otherwise the answer is searched if the text
    has one, else the whole text.

    Args:
        text: Any text.
        lexicon: Whose forms are looked for.

    >>> from affectgpt_r1.emotion.lexicon import load_lexicon
    >>> extract_labels("She is not happy; rather worried, even afraid.", load_lexicon("bundled"))
    Extraction(labels=('worried', 'afraid'), negated=('not happy',), source='text')
    """
    completion = parse_completion(text, enable_thinking="<think>" in text)
    if completion.well_formed:
        return Extraction(completion.labels, (), "answer")
    labels: dict[str, None] = {}
    negated: list[str] = []
    for form, span in _matches(text if completion.answer is None else completion.answer, _compiled(lexicon)):
        if span is None:
            labels[form] = None
        else:
            negated.append(span)
    return Extraction(tuple(labels), tuple(negated), "text")


@lru_cache(maxsize=4)
def _compiled(lexicon: Lexicon) -> _Forms:
    form_of: dict[str, str] = {}
    longest: dict[str, int] = {}
    for form in lexicon.entries:
        for words in _clauses(form):
            if len(words) and form_of.setdefault(" ".join(words), form) == form:
                longest[words[0]] = max(len(words), longest.get(words[0], 0))
    return _Forms(form_of, longest)


def _clauses(text: str) -> Iterator[list[str]]:
    """Lower-case words and commas between other punctuation marks; hyphens part words, not clauses."""
    words: list[str] = []
    for found in _WORD_OR_MARK.finditer(text.lower()):
        token = found.group().replace("\u2019", "'")
        if token[0].isalnum() or token == _COMMA:
            words.append(token)
        elif token not in _HYPHENS:
            yield words
            words = []
    yield words


class _Found(NamedTuple):
    """A form of the lexicon in a clause."""

    start: int
    end: int
    negation: int | None  # place of its own negation


def _matches(text: str, forms: _Forms) -> Iterator[tuple[str, str | None]]:
    """Forms in order, each with its negated span, None where it is affirmed."""
    for words in _clauses(text):
        found = list(_found(words, forms))
        spans = _negated_spans(words, found)
        for place, item in enumerate(found):
            yield forms.form_of[" ".join(words[item.start : item.end])], spans.get(place)


def _found(words: Sequence[str], forms: _Forms) -> Iterator[_Found]:
    place = 0
    while place < len(words):
        length = _longest_form(words, place, forms)
        if length:
            yield _Found(place, place + length, _negation(words, place))
        place += max(1, length)


def _negated_spans(words: Sequence[str], found: Sequence[_Found]) -> dict[int, str]:
    """Text of the negated forms by their place in ``found``, from the negation, or from what joins them to a list."""
    spans: dict[int, str] = {}
    place = 0
    while place < len(found):
        negation = found[place].negation
        last = place
        if negation is not None:
            spans[place] = " ".join(words[negation : found[place].end])
            last = _end_of_list(words, found, place)
        for member in range(place + 1, last + 1):
            spans[member] = " ".join(words[found[member - 1].end : found[member].end])
        place = last + 1
    return spans


def _end_of_list(words: Sequence[str], found: Sequence[_Found], first: int) -> int:
    """Place of the last form to which the negation of ``found[first]`` reaches."""
    negation = found[first].negation or 0
    bare = words[negation] in _OF_NOUNS and words[negation + 1] not in _OF_TIME
    last = place = first
    while place + 1 < len(found) and found[place + 1].negation is None:
        joint = _joint(words[found[place].end : found[place + 1].start])
        if joint is None:
            break
        place += 1
        if joint != _COMMA:
            last, bare = place, False
    return place if bare else last


def _joint(between: Sequence[str]) -> str | None:
    """The comma or conjunction by which ``between`` makes one list of two forms, None if it does not."""
    rest = between[1:] if between[:1] == [_COMMA] else between
    if rest and rest[0] in _CONJUNCTIONS:
        carriers = _CARRIERS if rest[0] in _ALTERNATIVES else _DETERMINERS
        return rest[0] if all(word in carriers for word in rest[1:]) else None
    return _COMMA if len(rest) < len(between) and all(word in _DETERMINERS for word in rest) else None


def _longest_form(words: Sequence[str], place: int, forms: _Forms) -> int:
    """Number of words of the longest form that opens at ``place``, 0 where none does."""
    most = min(forms.longest.get(words[place], 0), len(words) - place)
    return next((n for n in range(most, 0, -1) if " ".join(words[place : place + n]) in forms.form_of), 0)


def _negation(words: Sequence[str], place: int) -> int | None:
    """Where the negation that stands before the form at ``place`` is, None where there is none."""
    for before in range(place - 1, max(-1, place - 1 - _FARTHEST_NEGATION), -1):
        word = words[before]
        if word in _NEGATIONS or word.endswith("n't"):
            return before
        if word not in _CARRIERS:
            return None
    return None
