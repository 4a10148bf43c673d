"""A penalty on answers that name a word twice and on completions that copy the subtitle."""

from __future__ import annotations

import re
from collections.abc import Sequence

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import Completion, EmotionSet

_WORD = re.compile(r"\w+")


class RepetitionReward:
    """Minus the fraction of the answer's words that it has named before, minus that of the text's copied n-grams.

    Args:
        copied_ngram: Words of an n-gram of reasoning and answer that counts as copied where the subtitle has it too. A
            subtitle may well name an emotion, so that single words are not copies.
    """

    name = "repetition"

    def __init__(self, copied_ngram: int = 4) -> None:
        if copied_ngram < 2:
            raise ConfigError(f"reward: repetition.copied_ngram={copied_ngram} must be at least 2")
        self.copied_ngram = copied_ngram

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return a number in [-1, 0] for each completion."""
        return [
            0.0 - min(1.0, _repeated(completion.labels) + _copied(completion, self.copied_ngram))  # no -0.0 in tables
            for completion in completions
        ]


def _repeated(labels: EmotionSet) -> float:
    words = [label.strip().lower() for label in labels]
    return 1 - len(set(words)) / len(words) if words else 0.0


def _copied(completion: Completion, size: int) -> float:
    said = set(_ngrams(completion.subtitle, size))
    if not said:  # silent, or shorter than an n-gram
        return 0.0
    written = _ngrams(f"{completion.reasoning or ''} {completion.answer or ''}", size)
    return sum(ngram in said for ngram in written) / len(written) if written else 0.0


def _ngrams(text: str, size: int) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return list(zip(*(words[start:] for start in range(size)), strict=False))
