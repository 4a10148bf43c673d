"""Constant answers, which the wheel metric is known to reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.types import EmotionSet

CONSTANT_ANSWER: EmotionSet = ("happy", "sad", "angry")


def frequent_words(targets: Sequence[EmotionSet], num_words: int) -> EmotionSet:
    """Return the ``num_words`` words that are in most targets, ties by alphabet.

    >>> frequent_words([("sad", "Sad"), ("sad", "calm"), ("angry",)], 2)
    ('sad', 'angry')
    """
    spelling = {word: word.strip().lower() for word in set(chain.from_iterable(targets))}
    counts = Counter(chain.from_iterable(set(map(spelling.__getitem__, target)) for target in targets))
    return tuple(word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:num_words])


def best_constant_answer(
    targets: Sequence[EmotionSet], lexicon: Lexicon, num_words: int = 5, candidates: int = 60
) -> EmotionSet:
    """Build the constant answer of ``num_words`` words that scores best on these targets greedily.

    It is chosen among the most frequent ``candidates`` target words, which must not be of the test clips.
    """
    words = frequent_words(targets, candidates)
    chosen: EmotionSet = ()
    while len(chosen) < min(num_words, len(words)):
        scores = {word: _mean_score((*chosen, word), targets, lexicon) for word in words if word not in chosen}
        chosen = (*chosen, max(scores, key=lambda word: scores[word]))
    return chosen


def _mean_score(answer: EmotionSet, targets: Sequence[EmotionSet], lexicon: Lexicon) -> float:
    scores = [score for score in batch_mean_set_f1([answer] * len(targets), targets, lexicon) if score is not None]
    return sum(scores) / max(1, len(scores))
