"""Judges that prefer one reasoning to another: the recorded cues of synthetic clips, people, or a chat model."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import permutations
from pathlib import Path
from typing import Protocol

from affectgpt_r1.emotion.chat_client import Chat, ChatError, answer_all
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.untrusted_files import json_lines
from affectgpt_r1.metrics.judgements import preferred_texts, read_judgements

_WORD = re.compile(r"\w+")


class Judge(Protocol):
    """Compares each two reasonings about one clip."""

    def wins(self, groups: Sequence[tuple[str, Sequence[str]]]) -> list[list[list[float]]]:
        """Return the preferences within each group, ``(G, G)``.

        1 where the row's text was preferred to the column's, 0.5 for a tie; the diagonal is 0.

        Args:
            groups: A clip's name and ``G`` texts about it; ``G`` may differ.
        """
        ...


class RecordedCuesJudge:
    """Prefers the reasoning that states more cues of ``path``, the ``cues.jsonl`` of ``make demo-data``, truly.

    It records the two clearest cues of each channel that shows an emotion, so a fainter cue counts as false.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stated = lru_cache(maxsize=4096)(self._find_stated)

    def wins(self, groups: Sequence[tuple[str, Sequence[str]]]) -> list[list[list[float]]]:
        """Compare by :meth:`worth`."""
        return [_wins([self.worth(clip, reasoning) for reasoning in reasonings]) for clip, reasonings in groups]

    def worth(self, clip: str, reasoning: str) -> int:
        """Return the number of distinct phrases recorded for the clip that a reasoning states, minus all others."""
        if clip not in self._recorded:
            raise DataError(f"{self.path} does not record clip {clip!r}: this judge knows only its synthetic clips")
        stated = self._stated(reasoning)
        # Without the subtraction, reciting every phrase would beat any honest account; with it, a guess pays only if it
        # is more likely right than wrong.
        num_true = len(stated & self._recorded[clip])
        return num_true - (len(stated) - num_true)

    @cached_property
    def _recorded(self) -> Mapping[str, frozenset[str]]:
        try:
            rows = [row for _, row in json_lines(self.path)]
            return {row["name"]: frozenset(phrase.lower() for phrase in row["cue_phrases"]) for row in rows}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{self.path} cannot be read as recorded cues ({error!r}): run `make demo-data`, or choose judge=url"
            ) from error

    @cached_property
    def _phrases(self) -> re.Pattern[str]:
        """Match every recorded phrase, longest first: "inner brows raised" does not also state "brows raised"."""
        known = sorted(frozenset().union(*self._recorded.values()), key=lambda phrase: (-len(phrase), phrase))
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, known))})\b")

    def _find_stated(self, reasoning: str) -> frozenset[str]:
        return frozenset(self._phrases.findall(reasoning.lower()))


class PeopleJudge:
    """Prefers the reasoning that is more like those that people preferred: ``path`` is written by the app's Judge tab.

    People judged other answers than those that are sampled now, so a sampled one is worth what they thought of each
    judged answer to the clip, times the F1 of the words that the two have in common. On a clip that nobody judged, and
    between answers that are as much alike, it is a tie.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def wins(self, groups: Sequence[tuple[str, Sequence[str]]]) -> list[list[list[float]]]:
        """Compare by :meth:`worth`."""
        return [_wins([self.worth(clip, reasoning) for reasoning in reasonings]) for clip, reasonings in groups]

    def worth(self, clip: str, reasoning: str) -> float:
        """Return the sum over judged answers of preference, in [-1, 1], times likeness, in [0, 1]."""
        own = _words(reasoning)
        return sum(
            won * 2 * len(own & words) / max(1, len(own) + len(words)) for words, won in self._judged.get(clip, ())
        )

    @cached_property
    def _judged(self) -> Mapping[str, list[tuple[frozenset[str], float]]]:
        judged = preferred_texts(read_judgements(self.path))
        return {clip: [(_words(text), won) for text, won in texts] for clip, texts in judged.items()}


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _wins(worths: Sequence[float]) -> list[list[float]]:
    return [
        [0.0 if i == j else 0.5 * (1 + (row > column) - (row < column)) for j, column in enumerate(worths)]
        for i, row in enumerate(worths)
    ]


_INSTRUCTION = (
    "You compare two accounts of how a person in a video clip feels and how that shows. A reference description of the "
    "clip is given. Prefer the account whose statements about face, voice and words agree better with the reference; "
    "statements that contradict it count against an account, and length in itself counts for nothing. Answer with one "
    "word: A, B or TIE."
)
_VERDICT = re.compile(r"\b(A|B|TIE)\b")


class ChatJudge:
    """Asks a chat model which of two reasonings agrees better with a description of the clip.

    The paper's judge sees the video. ``descriptions`` is a CSV file with the columns ``name`` and ``reason``.
    """

    def __init__(self, chat: Chat, descriptions: str | Path) -> None:
        self.chat = chat
        self.path = Path(descriptions)

    def wins(self, groups: Sequence[tuple[str, Sequence[str]]]) -> list[list[list[float]]]:
        """Ask about each pair in both orders, for all groups at once; equal texts are tied without asking."""
        pairs = [
            (group, first, second)
            for group, (_, reasonings) in enumerate(groups)
            for first, second in permutations(range(len(reasonings)), 2)
            if reasonings[first] != reasonings[second]
        ]
        prompts = [self._prompt(groups[g][0], groups[g][1][first], groups[g][1][second]) for g, first, second in pairs]
        verdicts = map(_verdict, answer_all(self.chat, prompts, _INSTRUCTION))
        first_wins = dict(zip(pairs, verdicts, strict=True))

        def preference(group: int, i: int, j: int) -> float:
            if i == j:
                return 0.0
            if (group, i, j) not in first_wins:
                return 0.5
            # P = (p(i, j) + 1 - p(j, i)) / 2: a model that favours the first place cancels out, one win in each order
            # being a tie.
            return (first_wins[group, i, j] + 1 - first_wins[group, j, i]) / 2

        return [
            [[preference(group, i, j) for j in range(len(reasonings))] for i in range(len(reasonings))]
            for group, (_, reasonings) in enumerate(groups)
        ]

    def _prompt(self, clip: str, first: str, second: str) -> str:
        if clip not in self._descriptions:
            raise DataError(f"{self.path} does not describe clip {clip!r}: the judge needs a description of every clip")
        return f"Reference: {self._descriptions[clip]}\n\nAccount A: {first}\n\nAccount B: {second}\n\nA, B or TIE?"

    @cached_property
    def _descriptions(self) -> Mapping[str, str]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                return {row["name"]: row["reason"] for row in csv.DictReader(file)}
        except (OSError, ValueError, LookupError, csv.Error) as error:
            raise DataError(f"{self.path} needs the columns name and reason ({error!r})") from error


def _verdict(answer: str) -> float:
    """Return 1, 0.5 or 0 for the first account."""
    verdict = _VERDICT.search(answer.upper())
    if verdict is None:
        raise ChatError(f"the judge answered {answer[:80]!r} in place of A, B or TIE: take a model that follows")
    return {"A": 1.0, "TIE": 0.5, "B": 0.0}[verdict.group()]
