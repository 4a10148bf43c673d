"""Emotion words of free text, offline: a well-formed answer is parsed, anything else is searched for known forms.

The search takes the longest form of the lexicon at each word, within a clause. A form is negated, and left out, if a
negation precedes it with only words between that extend a negation ("not very happy", "isn't afraid", "no longer sad",
"no sign of anger"). So is the rest of a list that such a form opens, up to its last "or", "nor" or "and" ("no anger,
fear or sadness"), and without one after a negation of nouns ("without anger, fear"), but not after others ("not happy,
sad"). Other ways of denying ("far from happy", "couldn't be happier") are not understood.

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

    labels: EmotionSet  # in order; those that were searched for are distinct and spelt as in the lexicon
    negated: tuple[str, ...]  # spans in order, from the negation to the form, in lower case
    source: Literal["answer", "text", "chat"]  # parsed answer, searched text, or a chat model's words


class _Forms(NamedTuple):
    form_of: dict[str, str]  # words joined by one blank -> form of the lexicon
    longest: dict[str, int]  # first word -> number of words of the longest form that it opens


def extract_labels(text: str, lexicon: Lexicon) -> Extraction:
    """Find the emotion words of a text.

    A completion in the format of either prompt mode is parsed strictly. Otherwise the answer is searched if the text
    has one, else the full text.

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
    """Yield the lower-case words and commas between other punctuation marks; hyphens part words, not clauses."""
    words: list[str] = []
    for match in _WORD_OR_MARK.finditer(text.lower()):
        token = match.group().replace("\u2019", "'")
        if token[0].isalnum() or token == _COMMA:
            words.append(token)
        elif token not in _HYPHENS:
            yield words
            words = []
    yield words


class _Match(NamedTuple):
    """A form of the lexicon in a clause."""

    start: int
    end: int
    negation: int | None  # index of its own negation


def _matches(text: str, forms: _Forms) -> Iterator[tuple[str, str | None]]:
    """Yield forms in order, each with its negated span, None where it is affirmed."""
    for words in _clauses(text):
        matches = list(_find_forms(words, forms))
        spans = _negated_spans(words, matches)
        for index, match in enumerate(matches):
            yield forms.form_of[" ".join(words[match.start : match.end])], spans.get(index)


def _find_forms(words: Sequence[str], forms: _Forms) -> Iterator[_Match]:
    place = 0
    while place < len(words):
        length = _longest_form(words, place, forms)
        if length:
            yield _Match(place, place + length, _negation(words, place))
        place += max(1, length)


def _negated_spans(words: Sequence[str], matches: Sequence[_Match]) -> dict[int, str]:
    """Return the text of the negated forms by their index, from the negation, or from what joins them to a list."""
    spans: dict[int, str] = {}
    index = 0
    while index < len(matches):
        negation = matches[index].negation
        last = index
        if negation is not None:
            spans[index] = " ".join(words[negation : matches[index].end])
            last = _end_of_list(words, matches, index)
        for member in range(index + 1, last + 1):
            spans[member] = " ".join(words[matches[member - 1].end : matches[member].end])
        index = last + 1
    return spans


def _end_of_list(words: Sequence[str], matches: Sequence[_Match], first: int) -> int:
    """Return the index of the last form that the negation of ``matches[first]`` reaches."""
    negation = matches[first].negation or 0
    bare = words[negation] in _OF_NOUNS and words[negation + 1] not in _OF_TIME
    last = index = first
    while index + 1 < len(matches) and matches[index + 1].negation is None:
        joint = _joint(words[matches[index].end : matches[index + 1].start])
        if joint is None:
            break
        index += 1
        if joint != _COMMA:
            last, bare = index, False
    return index if bare else last


def _joint(between: Sequence[str]) -> str | None:
    """Return the comma or conjunction by which ``between`` makes one list of two forms, None if it does not."""
    rest = between[1:] if between[:1] == [_COMMA] else between
    if rest and rest[0] in _CONJUNCTIONS:
        carriers = _CARRIERS if rest[0] in _ALTERNATIVES else _DETERMINERS
        return rest[0] if all(word in carriers for word in rest[1:]) else None
    return _COMMA if len(rest) < len(between) and all(word in _DETERMINERS for word in rest) else None


def _longest_form(words: Sequence[str], place: int, forms: _Forms) -> int:
    """Return the number of words of the longest form that opens at ``place``, 0 where none does."""
    most = min(forms.longest.get(words[place], 0), len(words) - place)
    return next((n for n in range(most, 0, -1) if " ".join(words[place : place + n]) in forms.form_of), 0)


def _negation(words: Sequence[str], place: int) -> int | None:
    """Return the index of the negation before the form at ``place``, None where there is none."""
    for before in range(place - 1, max(-1, place - 1 - _FARTHEST_NEGATION), -1):
        word = words[before]
        if word in _NEGATIONS or word.endswith("n't"):
            return before
        if word not in _CARRIERS:
            return None
    return None
