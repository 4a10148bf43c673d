"""One answer out of several systems' answers to the same clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import EmotionSet

MergeRule: TypeAlias = Literal["union", "vote", "cap"]


def merge_answers(
    answers: Sequence[EmotionSet], lexicon: Lexicon, rule: MergeRule, most: int | None = None
) -> EmotionSet:
    """Return the words of ``K`` answers that a rule keeps, those of most answers first; synonyms count as one word.

    Args:
        answers: Of the systems, to one clip. An answer that names a word twice has one vote for it.
        lexicon: Its synonyms (case 2 of the metric) fold words; a word that it lacks stands for itself.
        rule: ``union`` keeps every word; ``vote`` those of more than half of the answers, or where there is none those
            of the most; ``cap`` as many words as an answer has on average, rounded, at least one.
        most: Keep at most so many of them.

    >>> from affectgpt_r1.emotion.lexicon import load_lexicon
    >>> merge_answers([("happy", "calm"), ("Joyful",), ("sad", "happy")], load_lexicon("bundled"), "vote")
    ('happy',)
    """
    if rule not in get_args(MergeRule):
        raise ConfigError(f"--rule {rule}: take one of {', '.join(get_args(MergeRule))}")
    if most is not None and most < 1:
        raise ConfigError(f"--most {most}: keep at least 1 word")
    votes: dict[str, int] = {}
    written: dict[str, str] = {}  # as the first answer that names the word has it
    folded = [{_fold(word, lexicon): word for word in reversed(answer)} for answer in answers]
    for words in folded:
        for key, word in reversed(words.items()):
            votes[key] = votes.get(key, 0) + 1
            written.setdefault(key, word)
    ranked = sorted(votes, key=lambda key: -votes[key])  # stable: ties stay in the order of the systems
    if rule == "vote" and ranked:
        least = min(len(answers) // 2 + 1, votes[ranked[0]])
        ranked = [key for key in ranked if votes[key] >= least]
    elif rule == "cap":
        mean = sum(map(len, folded)) / len(answers)
        ranked = ranked[: max(1, int(mean + 0.5))]
    return tuple(written[key] for key in ranked[:most])


def _fold(word: str, lexicon: Lexicon) -> str:
    return lexicon.synonym(word) or word.strip().lower()
