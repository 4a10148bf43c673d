"""Emotion words and sentiment of free text by a chat model.

The published protocol asks a chat model for a list of the emotion words of a description, then for their sentiment. The
wording here is our own; its metrics depend on the model, which a report has to name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from affectgpt_r1.emotion.extraction import Extraction, extract_labels
from affectgpt_r1.emotion.parsing import parse_completion, parse_labels
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.types import EmotionSet

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat

_WORDS_WANTED = (
    "You read a description of a person and name the emotional states that it says the person is in. Answer with a "
    "list of emotion words in square brackets, separated by commas, and nothing else. Leave out states that the "
    "description denies. If it names no emotional state, answer []."
)
_SENTIMENT_WANTED = (
    "You read a list of words for the emotional states of one person and judge the sentiment that they add up to. "
    "Answer with one word and nothing else: positive, negative or neutral."
)
SENTIMENTS = {"positive": 1, "negative": -1, "neutral": 0}


def text_extractor(lexicon: Lexicon, chat: Chat | None) -> Callable[[str], Extraction]:
    """Return what finds the emotion words of a text: ``chat``, or the offline search where it is None.

    Args:
        lexicon: Whose forms the search looks for.
        chat: Asked for the words of every text that is not a well-formed completion, which is parsed.
    """
    if chat is None:
        return lambda text: extract_labels(text, lexicon)
    return lambda text: _extract_by_chat(text, chat)


def sentiment_by(chat: Chat) -> Callable[[EmotionSet], int]:
    """Return what asks ``chat`` for the sentiment of emotion words: +1, 0 or -1.

    As published, any other answer counts as neutral, and so does an empty list.
    """

    def sentiment(labels: EmotionSet) -> int:
        if not labels:
            return 0
        words = concluded(chat(", ".join(labels), _SENTIMENT_WANTED)).lower().split()
        return SENTIMENTS.get(words[0].strip(".,;:!\"'*"), 0) if words else 0

    return sentiment


def _extract_by_chat(text: str, chat: Chat) -> Extraction:
    completion = parse_completion(text, enable_thinking="<think>" in text)
    if completion.well_formed:
        return Extraction(completion.labels, (), "answer")
    return Extraction(words_by_chat(text, chat), (), "chat")


def words_by_chat(text: str, chat: Chat) -> EmotionSet:
    """Return the emotion words that ``chat`` finds in a description."""
    return _listed(chat(text, _WORDS_WANTED))


def _listed(answer: str) -> EmotionSet:
    """Return the words of the last bracketed list, of the full answer without one."""
    answer = concluded(answer)
    end = answer.rfind("]")
    start = answer.rfind("[", 0, max(0, end))
    return parse_labels(answer[start : end + 1] if 0 <= start < end else answer)


def concluded(answer: str) -> str:
    """Return what follows the thoughts of a model that reasons first."""
    return answer.rpartition("</think>")[2].strip()
