"""Emotion words of free text, offline: a well-formed answer is parsed, anything else is searched for known forms.

What is read is the text inside ``<answer>``, else after ``</think>``. The published sentence ("The character's
emotional state is happy, proud.") is parsed as a list. In any other text the search takes the longest form of the
lexicon at each word, within a clause, with these rules:

* ``resources/stop_words.txt`` lists words of the descriptions themselves ("facial", "emotional") that are never taken.
* Quoted speech of four words or more counts only where the rest names nothing: it says what was said, not what is felt.
* If sentences that conclude ("overall", "it can be inferred") or, in a text that infers nothing, sentences about
  emotions ("feels", "a state of") name a definite emotion, only these sentences count.
* Of an EMER-like text only what follows "In the text" counts, which weighs the clues of the modalities before it; if a
  sentence with these words names a definite emotion, only such sentences count, not the reasons after them.
* A few fillers ("negative", "engaged") count only where nothing else does.
* What a text cannot decide ("hard to say whether he is happy") is not a label.
* An adjective of the scene ("a calm environment") is not a state of the person.
* A form is negated, and left out, if a negation precedes it with only words between that extend a negation ("not very
  happy", "no longer sad", "far from happy", "rather than sad"). So is the rest of a list that such a form opens, up to
  its last "or", "nor" or "and" ("no anger, fear or sadness"), and without one after a negation of nouns ("without
  anger, fear"), but not after others ("not happy, sad").

``tests/tools/extraction_agreement.py`` measures the agreement with a language model's labels of published answers.

One pass over the words: a megabyte takes about a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Literal, NamedTuple

from affectgpt_r1.emotion.parsing import parse_labels, well_formed_answer, without_thoughts
from affectgpt_r1.emotion.wheels import Lexicon

if TYPE_CHECKING:
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
    "obviously clearly visibly overly entirely completely anymore him her them it he she they "
    "than visible apparent obvious noticeable significant evident overt specific particular strong other intense "
    "extreme clear indication indications emotion emotions feelings such like experience experiences experiencing "
    "experienced display displays displaying displayed "
    "convey conveys conveying exhibit exhibits exhibiting reveal suggest indicate"
)
_NEGATION_PAIRS = frozenset(
    tuple(pair.split())
    for pair in (
        "rather than",
        "far from",
        "instead of",
        "devoid of",
        "free of",
        "free from",
        "opposed to",
        "unlikely to",
    )
)
_OF_NOUNS = _words("no without neither lacks lacking lack absence")
_OF_TIME = frozenset(("longer", "more"))
_COMMA = ","
_ALTERNATIVES = frozenset(("or", "nor"))
_CONJUNCTIONS = _ALTERNATIVES | {"and"}
_DETERMINERS = _words(
    "a an the any even very really particularly especially much clear visible obvious of sign signs trace traces hint "
    "hints sense evidence"
)
_FARTHEST_NEGATION = 7
_BEFORE_CONTENTS = _words(
    "the this that its their his her of subtitle subtitles caption text textual audio video visual speech spoken verbal"
)
_SCENE = _words(
    "environment environments atmosphere setting settings surroundings room space place scene background situation "
    "situations conversation conversations discussion topic topics message lighting weather music matter matters issue"
)
_LOOKS = _words("expression expressions facial face tone position posture look body voice background stance demeanor")
_ADJECTIVE_JOINTS = frozenset((_COMMA, "and", "or"))
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*(?:[-*\u2022]|\d+[.)]))")
_QUOTATION = re.compile(r"[\"\u201c][^\"\u201c\u201d\n]{0,600}[\"\u201d]")
_WORDS_OF_SPEECH = 4
_INFERENCE = re.compile(
    r"\b(?:inferred|deduced|speculated?|concluded|in conclusion|taking into account|in the text)\b", re.IGNORECASE
)
_CONCLUSION = re.compile(
    r"\b(?:overall|in (?:conclusion|summary)|to sum up|conclude|concluded|therefore|thus|hence|based on|taking into "
    r"account|considering|infer|inferred|deduce|deduced|predict|speculate|speculated|taken together)\b",
    re.IGNORECASE,
)
_MERGED = re.compile(r"\bin the text\b", re.IGNORECASE)  # opens the part of an EMER-like text that weighs all clues
_EVIDENCE = re.compile(
    r"\b(?:clues?|subtitles?|content|dialogue|sentence|phrase|words?)\b[^,]{0,25}\b(?:mention(?:s|ed)?|describes?|"
    r"states?)\b",
    re.IGNORECASE,
)
_EMOTIONS = re.compile(r"\b(?:emotions?|feel|feels|feelings?|experienc(?:e|es|ing)|states?|mood)\b", re.IGNORECASE)
_UNDECIDED = re.compile(
    r"\b(?:cannot|can['\u2019]?t|unable to|not able to|not possible to|impossible to|difficult to|hard to|unclear|not "
    r"clear|uncertain|unsure)\b(?: \w+)? (?:whether|if)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_NEUTRAL = "neutral"  # on no wheel, and still an answer: of MER2023, MELD and IEMOCAP
_FILLERS = _words("negative engaged intense involved pleasant neutral")  # of little meaning next to an emotion
_FILLERS_ALONE = _FILLERS | {"positive"}
# Not a conclusion alone
_VAGUE = _words("positive negative engaged intense involved pleasant unpleasant distress comfort certainty uncertain")
_STATED = re.compile(
    r"\s*the (?:character|person)['\u2019]s (?:most likely )?emotional state is ([^.]+)\.?\s*", re.IGNORECASE
)
_LIST_MARK = re.compile(r"[,;\uff0c\u3001]|\band\b")


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

    >>> from affectgpt_r1.emotion.lexicon import load_lexicon
    >>> extract_labels("She is not happy; rather worried, even afraid.", load_lexicon("bundled"))
    Extraction(labels=('worried', 'afraid'), negated=('not happy',), source='text')
    >>> extract_labels("The character's emotional state is proud, at ease.", load_lexicon("bundled"))
    Extraction(labels=('proud', 'at ease'), negated=(), source='answer')
    """
    answer = well_formed_answer(text)
    if answer is not None:
        return Extraction(parse_labels(answer), (), "answer")
    body = without_thoughts(text)
    stated = _stated_labels(body)
    if stated:
        return Extraction(stated, (), "answer")
    described = _QUOTATION.sub(_without_speech, body)
    found = _search(described, lexicon)
    return found if found.labels or described == body else _search(body, lexicon)


def _search(text: str, lexicon: Lexicon) -> Extraction:
    sentences: list[_Sentence] = []
    negated: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        matches = list(_matches(_UNDECIDED.sub("", sentence), _compiled(lexicon)))
        sentences.append(_Sentence(sentence, [form for form, span in matches if span is None]))
        negated += [span for _, span in matches if span is not None]
    return Extraction(tuple(_concluded(sentences)), tuple(negated), "text")


class _Sentence(NamedTuple):
    text: str
    forms: list[str]  # that it affirms


def _concluded(sentences: list[_Sentence]) -> dict[str, None]:
    """Return the forms that a description ends up with, in order."""
    merged = next((i for i, sentence in enumerate(sentences) if i and _MERGED.search(sentence.text)), 0)
    if any(sentence.forms for sentence in sentences[merged:]):
        sentences = sentences[merged:]
    # A text that infers has reasons, which name other emotions than its result; one that only describes has none.
    infers = any(_INFERENCE.search(sentence.text) for sentence in sentences)
    # What an EMER-like text states, before it gives the reasons, is its result.
    stated = [form for text, forms in sentences if merged and _MERGED.search(text) for form in forms]
    labels: dict[str, None] = dict.fromkeys(stated) if not _VAGUE.issuperset(stated) else {}
    for text, forms in sentences if not labels else ():
        concludes = _CONCLUSION.search(text) and not (infers and _EVIDENCE.search(text))
        if concludes or (not infers and _EMOTIONS.search(text)):
            labels |= dict.fromkeys(forms)
    if labels.keys() <= _VAGUE:
        labels = dict.fromkeys(form for sentence in sentences for form in sentence.forms)
    if not labels.keys() <= _FILLERS_ALONE:
        labels = {form: None for form in labels if form not in _FILLERS}
    return labels


def _stated_labels(text: str) -> EmotionSet:
    """Return the list of the published sentence; nothing if ``text`` is not just that, or it denies one."""
    match = _STATED.fullmatch(text)
    labels = tuple(label for part in _LIST_MARK.split(match[1]) if (label := part.strip())) if match else ()
    plain = all(not _NEGATIONS.intersection(words := label.lower().split()) and len(words) <= 3 for label in labels)
    return labels if plain else ()


def _without_speech(match: re.Match[str]) -> str:
    """Return a mark in place of a quotation of several words."""
    return ";" if match[0].count(" ") >= _WORDS_OF_SPEECH - 1 else match[0]


# Measured by tests/tools/extraction_agreement.py on the clips that nothing was learnt from, lexicon mer2025.
AGREEMENT = (
    "measured agreement with a language model's labels, level-1 F1: 0.89 for descriptions by seven models, 0.99 for "
    "answers in AffectGPT's sentence; Kendall's tau of the ranks of 21 systems: 0.85"
)


@cache
def stop_words() -> frozenset[str]:
    """Return the words of descriptions that the search leaves out."""
    file = resources.files("affectgpt_r1.emotion") / "resources" / "stop_words.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    return frozenset(
        word for line in lines if not line.startswith("#") for part in line.split(",") if (word := part.strip())
    )


@lru_cache(maxsize=4)
def _compiled(lexicon: Lexicon) -> _Forms:
    form_of: dict[str, str] = {}
    longest: dict[str, int] = {}
    for form in lexicon.entries:
        if form in stop_words():
            continue
        for words in _clauses(form):
            if len(words) and form_of.setdefault(" ".join(words), form) == form:
                longest[words[0]] = max(len(words), longest.get(words[0], 0))
    form_of.setdefault(_NEUTRAL, _NEUTRAL)
    longest.setdefault(_NEUTRAL, 1)
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
        matches = _find_forms(words, forms)
        spans = _negated_spans(words, matches)
        for index, match in enumerate(matches):
            yield forms.form_of[" ".join(words[match.start : match.end])], spans.get(index)


def _find_forms(words: Sequence[str], forms: _Forms) -> list[_Match]:
    matches = []
    place = 0
    while place < len(words):
        length = _longest_form(words, place, forms)
        if length and not _is_contents(words, place):
            matches.append(_Match(place, place + length, _negation(words, place)))
        place += max(1, length)
    return _without_scene(words, matches)


def _is_contents(words: Sequence[str], place: int) -> bool:
    """Return whether the word at ``place`` is "content" in the sense of what a text contains."""
    if words[place] != "content":
        return False
    return (place > 0 and words[place - 1] in _BEFORE_CONTENTS) or words[place + 1 : place + 2] == ["of"]


def _without_scene(words: Sequence[str], matches: Sequence[_Match]) -> list[_Match]:
    """Leave out adjectives of the scene: "a calm environment", and "calm" in "a calm and peaceful environment"."""
    kept: list[_Match] = []
    scene = len(words)  # where the nearest adjective of the scene on the right starts
    for match in reversed(matches):
        after = words[match.end] if match.end < len(words) else ""
        joined = scene < len(words) and all(word in _ADJECTIVE_JOINTS for word in words[match.end : scene])
        neutral_look = words[match.start] == _NEUTRAL and after in _LOOKS
        if after in _SCENE or joined or neutral_look:
            scene = match.start
        else:
            scene = len(words)
            kept.append(match)
    return kept[::-1]


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
        if word in _NEGATIONS or word.endswith("n't") or tuple(words[before : before + 2]) in _NEGATION_PAIRS:
            return before
        if word not in _CARRIERS:
            return None
    return None
