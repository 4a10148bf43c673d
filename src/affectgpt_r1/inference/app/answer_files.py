"""Answers of several systems to the same clips, from ``outputs/**/predictions/*.jsonl``, and what to look at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.untrusted_files import json_lines
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.report.wheel_drawing import clusters_of
from affectgpt_r1.types import MODALITIES, EmotionSet

ORDERS = ("name", "largest disagreement", "worst F1")
KINDS = ("all", "repeated words", "empty answers")


class Answer(NamedTuple):
    """A system's answer to a clip."""

    labels: EmotionSet
    completion: str
    f1: float  # NaN where it cannot be scored
    reliance: str  # the modality without which the answer changes most, "" where the file does not say


@dataclass(frozen=True)
class AnswerTable:
    """Answers by clip and system."""

    lexicon: Lexicon
    names: list[str]
    targets: Mapping[str, EmotionSet]
    answers: Mapping[str, Mapping[str, Answer]]  # by system, then clip
    files: Mapping[str, Path] = field(default_factory=dict)
    faults: Sequence[str] = ()  # files that were left out, and why

    @property
    def systems(self) -> list[str]:
        """The systems, by name."""
        return list(self.answers)

    def of_clip(self, name: str) -> dict[str, Answer]:
        """Return the answers to a clip by system."""
        return {system: own[name] for system, own in self.answers.items() if name in own}

    def f1(self, system: str, names: Sequence[str]) -> NDArray[np.float64]:
        """Return a system's F1 of each clip, NaN where there is none."""
        own = self.answers.get(system, {})
        return np.array([own[name].f1 if name in own else np.nan for name in names])


@dataclass(frozen=True)
class Choice:
    """What Compare shows, and in which order."""

    first: str = ""
    second: str = ""
    order: str = ORDERS[0]
    kind: str = KINDS[0]
    cluster: str = ""  # of wheel 1, in target or answer; "" for any
    reliance: str = ""  # a modality; "" for any
    search: str = ""


def read_answers(outputs: Path, lexicon: Lexicon) -> AnswerTable:
    """Read every prediction file below a folder; one that cannot be read is left out and listed.

    A system is called as its file, with the folder of its experiment where several have that name.
    """
    paths = sorted(outputs.glob("**/predictions/*.jsonl"))
    number = Counter(path.stem for path in paths)
    targets: dict[str, EmotionSet] = {}
    answers: dict[str, dict[str, Answer]] = {}
    files: dict[str, Path] = {}
    faults: list[str] = []
    for path in paths:
        folder = path.parent.parent.relative_to(outputs).as_posix()
        system = path.stem if number[path.stem] == 1 else f"{folder}/{path.stem}"
        try:
            rows = _rows(path)
        except DataError as error:
            faults.append(str(error))
            continue
        for name, row in rows.items():
            targets.setdefault(name, tuple(row.get("target") or ()))
        wanted = [targets[name] for name in rows]
        labels = [tuple(row["openset"]) for row in rows.values()]
        scores = batch_mean_set_f1(labels, wanted, lexicon)
        reliance = _reliance(list(rows.values()), wanted, scores, lexicon)
        answers[system] = {
            name: Answer(words, str(row.get("completion", "")), np.nan if f1 is None else f1, modality)
            for (name, row), words, f1, modality in zip(rows.items(), labels, scores, reliance, strict=True)
        }
        files[system] = path
    return AnswerTable(lexicon, sorted(targets), targets, answers, files, faults)


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    try:
        rows = list(json_lines(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    for number, row in rows:
        lists = [row.get("openset"), row.get("target") or []] if isinstance(row, dict) else [None]
        is_text = all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists)
        if not is_text or not isinstance(row.get("name"), str) or not _has_modalities(row):
            raise DataError(f"{path}: line {number} lacks name or openset: write it by `evaluate` or `predict`")
    return {row["name"]: row for _, row in rows}


def _has_modalities(row: Mapping[str, Any]) -> bool:
    """Return whether what an answer says of each modality has the right form; it may be absent."""
    drops, without = row.get("contributions") or {}, row.get("without") or {}
    if not isinstance(drops, dict) or not isinstance(without, dict):
        return False
    numbers = [part.get("log_probability") if isinstance(part, dict) else None for part in drops.values()]
    words = [word for part in without.values() for word in (part if isinstance(part, list) else [None])]
    return all(isinstance(number, int | float) for number in numbers) and all(isinstance(word, str) for word in words)


def _reliance(
    rows: Sequence[Mapping[str, Any]], targets: Sequence[EmotionSet], scores: Sequence[float | None], lexicon: Lexicon
) -> list[str]:
    """Return for each answer the modality without which its F1 (``evaluate``) or log-probability (``predict``) falls.

    Of several the one by which it falls most; "" where none does, or the file does not say.
    """
    drops: list[dict[str, float]] = [
        {kind: part["log_probability"] for kind, part in (row.get("contributions") or {}).items()} for row in rows
    ]
    for kind in MODALITIES:
        kept = [index for index, row in enumerate(rows) if kind in (row.get("without") or {})]
        words = [tuple(rows[index]["without"][kind]) for index in kept]
        left = batch_mean_set_f1(words, [targets[index] for index in kept], lexicon) if kept else []
        for index, f1 in zip(kept, left, strict=True):
            drops[index][kind] = (scores[index] or 0.0) - (f1 or 0.0)
    largest = [max(own, key=lambda kind, own=own: own[kind], default="") for own in drops]  # type: ignore[misc]
    return [kind if kind and own[kind] > 0 else "" for kind, own in zip(largest, drops, strict=True)]


def choose(table: AnswerTable, choice: Choice) -> list[str]:
    """Return the clips that a choice shows, in its order; clips without a score come last."""
    systems = [system for system in (choice.first, choice.second) if system in table.answers] or table.systems
    needle = choice.search.strip().lower()
    kept = []
    for name in table.names:
        answers = [own[name] for own in (table.answers[system] for system in systems) if name in own]
        if choice.kind == "repeated words" and not any(repeats(answer.labels) for answer in answers):
            continue
        if choice.kind == "empty answers" and not any(not answer.labels for answer in answers):
            continue
        if choice.reliance and not any(answer.reliance == choice.reliance for answer in answers):
            continue
        if choice.cluster:
            words = [word for answer in answers for word in answer.labels]
            if choice.cluster not in clusters_of({*words, *table.targets[name]}, table.lexicon):
                continue
        if needle and not _mentions(needle, name, table.targets[name], answers):
            continue
        kept.append(name)
    return _ordered(table, kept, systems, choice.order)


def repeats(labels: EmotionSet) -> bool:
    """Return whether an answer has a word twice."""
    return len({label.lower() for label in labels}) < len(labels)


def _mentions(needle: str, name: str, target: EmotionSet, answers: Sequence[Answer]) -> bool:
    texts = [name, *target, *(word for answer in answers for word in (*answer.labels, answer.completion))]
    return any(needle in text.lower() for text in texts)


def _ordered(table: AnswerTable, names: list[str], systems: Sequence[str], order: str) -> list[str]:
    if order == ORDERS[0] or not systems:
        return names
    first = table.f1(systems[0], names)
    if order == ORDERS[1]:
        first = -np.abs(first - table.f1(systems[1 if len(systems) > 1 else 0], names))
    return [names[row] for row in np.argsort(first, kind="stable")]  # NaN sorts last
