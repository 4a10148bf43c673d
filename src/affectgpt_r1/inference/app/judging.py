"""Pairs of answers for people to judge, and the files that take what they say."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.inference.app.answer_files import AnswerTable
from affectgpt_r1.io.clean_text import json_line, one_line
from affectgpt_r1.io.files import clear_write_errors
from affectgpt_r1.io.untrusted_files import json_lines
from affectgpt_r1.metrics.functional.preference import rank_systems
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.metrics.judgements import (
    Judgement,
    as_scored,
    preference_agreement,
    read_judgements,
)
from affectgpt_r1.types import EmotionSet

PREFERENCES, LABELS = "preferences.jsonl", "labels-{}.jsonl"
_RATER = re.compile(r"\w[\w.-]{0,39}")
_MOST_WORDS, _LONGEST_WORD = 30, 60


class Pair(NamedTuple):
    """Two answers to a clip, in the order in which they are shown."""

    clip: str
    first: str  # the system on the left
    second: str


class JudgementFiles:
    """The files of one folder: preferences of everybody in one, free labels of each person in one of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()

    @property
    def preferences(self) -> Path:
        """The JSON lines of :mod:`affectgpt_r1.metrics.judgements`."""
        return self.folder / PREFERENCES

    def labels(self, rater: str) -> Path:
        """Return the file of a person's labels, which ``affectgpt-r1 score`` reads."""
        return self.folder / LABELS.format(checked_rater(rater))

    def judgements(self) -> list[Judgement]:
        """Return what was judged so far."""
        return read_judgements(self.preferences) if self.preferences.exists() else []

    def prefer(self, table: AnswerTable, pair: Pair, rater: str, preference: str) -> Judgement:
        """Write a preference, and return it once the disk has it."""
        first, second = (_text(table, pair.clip, system) for system in (pair.first, pair.second))
        judgement = Judgement(
            pair.clip, checked_rater(rater), pair.first, pair.second, first, second, preference, time=_now()
        )
        self._append(self.preferences, judgement.row())
        return judgement

    def label(self, clip: str, rater: str, words: Sequence[str]) -> EmotionSet:
        """Write a person's own words for a clip, and return them cleaned; the last line for a clip counts."""
        cleaned = tuple(dict.fromkeys(one_line(word)[:_LONGEST_WORD] for word in words if word.strip()))[:_MOST_WORDS]
        path = self.labels(rater)
        rows = [row for row in _label_rows(path) if row["name"] != clip]
        rows.append({"name": clip, "openset": list(cleaned), "rater": rater, "time": _now()})
        with self._lock, clear_write_errors(path, "choose another --judgements"):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text("".join(map(json_line, rows)), "utf-8")
            os.replace(partial, path)
        return cleaned

    def labels_of(self, rater: str) -> dict[str, EmotionSet]:
        """Return a person's words by clip."""
        return {row["name"]: tuple(row["openset"]) for row in _label_rows(self.labels(rater))}

    def all_labels(self) -> dict[str, dict[str, EmotionSet]]:
        """Return everybody's words by person and clip."""
        start, _, end = LABELS.partition("{}")
        raters = [path.name[len(start) : -len(end)] for path in sorted(self.folder.glob(LABELS.format("*")))]
        return {rater: self.labels_of(rater) for rater in raters if _RATER.fullmatch(rater)}

    def _append(self, path: Path, row: Mapping[str, Any]) -> None:
        with self._lock, clear_write_errors(path, "choose another --judgements"):
            path.parent.mkdir(parents=True, exist_ok=True)
            # One write of a whole line: an interruption leaves no half of it, and other processes' lines stay whole.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, json_line(row).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def checked_rater(name: str) -> str:
    """Return a person's name, which becomes a part of a file's.

    Raises:
        ConfigError: It has other characters than letters, digits, ``_``, ``-`` and ``.``, or more than 40.
    """
    name = name.strip()
    if not _RATER.fullmatch(name):
        raise ConfigError("give a name of up to 40 letters, digits, _, - or ., such as anna")
    return name


def _label_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows = [row for _, row in json_lines(path)]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    if any(not isinstance(row, dict) or not {"name", "openset"} <= row.keys() for row in rows):
        raise DataError(f"{path}: has a line without name or openset; take it out")
    return rows


def _text(table: AnswerTable, clip: str, system: str) -> str:
    answer = table.answers[system][clip]
    return answer.completion or ", ".join(answer.labels)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def pairs_to_judge(table: AnswerTable, systems: Sequence[str], rater: str) -> list[Pair]:
    """Return each two different answers to each clip, in an order that is the same for every person.

    Which answer is on the left depends on the person, so that a liking for one side cancels out.
    """
    pairs = [
        (clip, *sorted(couple))
        for clip in table.names
        for couple in combinations([system for system in systems if clip in table.answers[system]], 2)
        if _differ(table, clip, *couple)
    ]
    pairs.sort(key=_digest)
    return [
        Pair(clip, first, second) if _digest((clip, first, second, rater))[0] % 2 else Pair(clip, second, first)
        for clip, first, second in pairs
    ]


def _differ(table: AnswerTable, clip: str, first: str, second: str) -> bool:
    one, other = (table.answers[system][clip] for system in (first, second))
    return set(one.labels) != set(other.labels) or (not one.labels and one.completion != other.completion)


def _digest(parts: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def next_pair(pairs: Sequence[Pair], judgements: Sequence[Judgement], rater: str) -> tuple[Pair | None, int]:
    """Return the first pair that a person has not judged, and how many they have."""
    done = {judgement.pair for judgement in judgements if judgement.rater == rater}
    open_pairs = [pair for pair in pairs if (pair.clip, *sorted(pair[1:])) not in done]
    return (open_pairs[0] if open_pairs else None), len(pairs) - len(open_pairs)


def judged_so_far(files: JudgementFiles, table: AnswerTable) -> dict[str, Any]:
    """Return the ranking of the systems, and the agreement between people on preferences and on labels."""
    judgements = files.judgements()
    ranking = (
        rank_systems(
            [judgement.system1 for judgement in judgements],
            [judgement.system2 for judgement in judgements],
            [as_scored(judgement.preference) for judgement in judgements],
        )
        if judgements
        else []
    )
    return {
        "judgements": len(judgements),
        "raters": sorted({judgement.rater for judgement in judgements}),
        "ranking": ranking,
        "agreement": preference_agreement(judgements),
        "labels": label_agreement(files.all_labels(), table),
    }


def label_agreement(labels: Mapping[str, Mapping[str, EmotionSet]], table: AnswerTable) -> list[dict[str, Any]]:
    """Return for each two people the mean set F1 of their words on the clips that both labelled: a system's ceiling."""
    rows = []
    for one, other in combinations(labels, 2):
        shared = [clip for clip in labels[one] if clip in labels[other]]
        sets = [[labels[rater][clip] for clip in shared] for rater in (one, other)]
        scores = [score for score in batch_mean_set_f1(sets[0], sets[1], table.lexicon) if score is not None]
        if scores:
            rows.append({"raters": (one, other), "clips": len(scores), "f1": sum(scores) / len(scores)})
    return rows
