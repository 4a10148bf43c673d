"""Answers that hold labels in another form than a list of words: tags, JSON, Markdown lists, sentences, emoji.

The published parser splits at commas and quotation marks and keeps all else, so that ``**happy**`` or ``happy.`` map
onto no wheel. What it reads as meant is left to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from affectgpt_r1.emotion.extraction import Extraction
from affectgpt_r1.emotion.parsing import parse_labels, without_thoughts

if TYPE_CHECKING:
    from affectgpt_r1.types import EmotionSet

_MOST_WORDS_OF_LABEL = 4
# Pictographs, dingbats, and what joins them or picks their form
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\ufe0f\u200d]")
_FENCE = re.compile(r"```(?:[a-z]+\n)?")
_ITEM = re.compile(r"^\s*(?:[-*\u2022+]|\d{1,3}[.)])\s+", re.MULTILINE)
_EMPHASIS = re.compile(r"\*{1,3}|_{2,3}|^#+\s*|`", re.MULTILINE)
_HEADING = re.compile(
    r"\A\s*(?:the |my )?(?:final |predicted )?(?:answers?|emotions?|labels?|emotion(?:al)? states?)\s*:", re.IGNORECASE
)
_MARK = re.compile(r"[,;\n\uff0c\uff1b\u3001]")
_PLAIN = re.compile(r"(?! *-)[A-Za-z0-9 ,'\"\[\]-]*")
_MARKED = re.compile(r"[<>{}:*`#]|__")


def read_answer(text: str, extract: Callable[[str], Extraction]) -> EmotionSet | None:
    r"""Return the labels of an answer in another form, None where :func:`parse_labels` reads it as meant.

    Args:
        text: What a file has for its labels.
        extract: Finds the labels of sentences.

    >>> from affectgpt_r1.emotion.extraction import extract_labels
    >>> from affectgpt_r1.emotion.lexicon import load_lexicon
    >>> def read(text):
    ...     return read_answer(text, lambda text: extract_labels(text, load_lexicon("bundled")))
    >>> read("1. **happy** \U0001f600\n2. at ease")
    ('happy', 'at ease')
    >>> read("<think>Sad?</think><answer>calm</answer>"), read('{"emotions": ["calm", "proud"]}')
    (('calm',), ('calm', 'proud'))
    >>> read("He seems to be rather sad about this.")
    ('sad',)
    >>> read("['happy', 'sad']")
    """
    if _PLAIN.fullmatch(text) and text.count(" ") - text.count(", ") < _MOST_WORDS_OF_LABEL:
        return None  # as nearly all are: the checks below take five times as long
    # A list in brackets may hold phrases; what else is that long is a sentence.
    bracketed = text.strip().startswith("[") and text.strip().endswith("]")
    phrases = not bracketed and any(label.count(" ") >= _MOST_WORDS_OF_LABEL for label in parse_labels(text))
    marked = any(pattern.search(text) for pattern in (_MARKED, _ITEM, _EMOJI))
    if not (phrases or marked or text.rstrip().endswith((".", "!"))):
        return None
    body = _EMOJI.sub(" ", _FENCE.sub("", without_thoughts(text)))
    values = _json_values(body)
    if values is not None:
        return values
    body = _EMPHASIS.sub("", _HEADING.sub("", _ITEM.sub(", ", body)))
    parts = [part for piece in _MARK.split(body) if (part := piece.strip(" \t.!'\"[]()"))]
    if any(part.count(" ") >= _MOST_WORDS_OF_LABEL or ":" in part for part in parts):
        return extract(body).labels
    return tuple(parts)


def _json_values(text: str) -> EmotionSet | None:
    """Return the texts of a JSON list, or of the lists and texts of an object; None if it is neither."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    values = list(content.values()) if isinstance(content, dict) else content
    lists = [parse_labels(value) if isinstance(value, str) else value for value in values]
    words = [word for part in lists if isinstance(part, list | tuple) for word in part]
    return tuple(word.strip() for word in words if isinstance(word, str) and word.strip())
