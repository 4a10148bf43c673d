"""From emotion words to positive, negative or neutral, offline and the same everywhere.

The published protocol asks a language model for the sentiment of the labels. Here ``metrics/resources/polarity.json``
has the polarity of a word, of its uninflected form, or of its near-synonym group in the bundled lexicon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.types import EmotionSet

SIGNS = {"positive": 1, "neutral": 0, "negative": -1}


@dataclass(frozen=True)
class PolarityMap:
    """Polarity of words, without case: +1, 0 or -1 by word, which comes first, and by near-synonym group."""

    version: str
    words: Mapping[str, int] = field(repr=False)
    groups: Mapping[str, int] = field(repr=False)
    lexicon: Lexicon = field(repr=False)

    def polarity(self, word: str) -> int | None:
        """Return +1, 0 or -1; None for an unknown word."""
        word = word.strip().lower()
        for known in (word, self.lexicon.base_form(word) or ""):
            if known in self.words:
                return self.words[known]
        return self.groups.get(self.lexicon.synonym(word) or "")

    def sentiment(self, labels: EmotionSet) -> int:
        """Return the sign of the sum over the distinct words of ``labels``; unknown words add 0.

        >>> [load_polarity().sentiment(words) for words in (("happy",), ("sad", "happy"), ("Angry", "worried"), ())]
        [1, 0, -1, 0]
        """
        total = sum(self.polarity(word) or 0 for word in {word.strip().lower() for word in labels})
        return (total > 0) - (total < 0)


@cache
def load_polarity() -> PolarityMap:
    """Return the map that comes with the package."""
    file = resources.files("affectgpt_r1.metrics") / "resources" / "polarity.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    return PolarityMap(content["version"], _signs(content["words"]), _signs(content["groups"]), load_bundled())


def _signs(words_of: Mapping[str, list[str]]) -> dict[str, int]:
    return {word: sign for name, sign in SIGNS.items() for word in words_of[name]}
