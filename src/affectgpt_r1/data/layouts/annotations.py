"""Read what AffectGPT's questions need of a label file in addition to emotion words and reasons.

A training clip may be asked any kind in ``data.questions``, so every row needs a value for each of them. Files of
validation and test clips need not have the columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from affectgpt_r1.errors import ConfigError, DataError, OnFault, refuse
from affectgpt_r1.types import Annotations, EmotionSet

if TYPE_CHECKING:  # not needed to answer, and it takes `predict` half a second
    import pandas as pd

LABEL_COLUMNS = ("openset", "discrete")  # open vocabulary, or one label per clip (MER's track 1)

# What each kind of question needs: `reason` is in the file of reasons, `openset` is any of LABEL_COLUMNS.
QUESTION_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "description": ("reason",),
    "ovlabel": ("openset",),
    "onehot": ("openset",),
    "onehot_w_candidates": ("openset",),
    "sentiment": ("valence",),
    "valence": ("valence",),
    "preference": ("a1", "a2", "preference"),
    "reward": ("reason", "reward"),
}

_ELSEWHERE = ("reason", "openset")


@dataclass(frozen=True)
class QuestionSet:
    """What training clips may be asked; a clip is asked one kind at a time, and must have an answer to each."""

    kinds: tuple[str, ...] = ()  # keys of QUESTION_COLUMNS; none asks the prompt's own question
    # Lowest and highest valence score, with neutral, 0, between; None takes the training file's extremes, as published.
    valence_range: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not set(self.kinds) <= set(QUESTION_COLUMNS):
            raise ConfigError(f"data.questions={list(self.kinds)}: choose among {', '.join(QUESTION_COLUMNS)}")
        bounds = self.valence_range
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < 0 < bounds[1]):
            raise ConfigError(
                f"data.valence_range={list(bounds)}: give the lowest and the highest score, as [-3, 3] for CMU-MOSI"
            )

    def needs_labels(self) -> bool:
        """Return whether some kind, or the prompt's own question, is about emotion words."""
        return not self.kinds or any("openset" in QUESTION_COLUMNS[kind] for kind in self.kinds)


NO_QUESTIONS = QuestionSet()


def read_annotations(
    path: Path,
    table: pd.DataFrame,
    labels: Sequence[EmotionSet],
    reasons: Sequence[str],
    kinds: Sequence[str],
    *,
    required: bool,
    on_fault: OnFault = refuse,
) -> list[dict[str, str | float]]:
    """Read and check what the kinds of question need of each row.

    Args:
        path: The label file, for messages.
        table: Its ``N`` rows, every field a string; the index is the row in a spreadsheet.
        labels: Their ``N`` emotion sets.
        reasons: Their ``N`` reasons, ``""`` where there is none.
        kinds: Keys of :data:`QUESTION_COLUMNS`.
        required: Refuse a file that lacks a column; otherwise leave that kind out.
        on_fault: See :data:`~affectgpt_r1.errors.OnFault`.

    Raises:
        DataError: Names file, row, column and remedy.
    """
    annotations: list[dict[str, str | float]] = [{} for _ in labels]
    for kind in kinds:
        columns = [column for column in QUESTION_COLUMNS[kind] if column not in _ELSEWHERE]
        lacking = [column for column in columns if column not in table.columns]
        if lacking and required:
            on_fault(
                DataError(
                    f"{path}: lacks the column {', '.join(lacking)}, which the question {kind!r} needs; add it, or "
                    f"take {kind} out of data.questions"
                )
            )
        if lacking or (not required and len(columns) < len(QUESTION_COLUMNS[kind])):
            continue
        for number, (name, words, reason) in enumerate(zip(table["name"], labels, reasons, strict=True)):
            cells = {column: str(table[column].iat[number]) for column in columns}
            try:
                annotations[number] |= _values(kind, cells, words, reason)
            except ValueError as error:
                fault = DataError(
                    f"{path}: row {table.index[number]} ({name}): {error}, which the question {kind!r} needs; correct "
                    f"it, take the row out, or take {kind} out of data.questions",
                    kind=f"{path}: {kind}",
                    items=[f"row {table.index[number]} ({name})"],
                )
                fault.__cause__ = error
                on_fault(fault)
    return annotations


def shared_annotations(
    path: Path,
    labels: Iterable[EmotionSet],
    annotations: Iterable[Annotations],
    questions: QuestionSet,
    on_fault: OnFault = refuse,
) -> dict[str, str | float]:
    """Return what the questions name of the full training set: candidate labels, and the bounds of valence scores.

    As published, candidates are the labels that occur, here in alphabetical order, and bounds are the extremes.

    Args:
        path: The training labels, for messages.
        labels: Emotion sets of the training clips.
        annotations: Of the training clips.
        questions: What they may be asked.
        on_fault: See :data:`~affectgpt_r1.errors.OnFault`.

    Raises:
        DataError: A score is outside ``questions.valence_range``.
    """
    shared: dict[str, str | float] = {}
    if "onehot_w_candidates" in questions.kinds:
        shared["candidates"] = ", ".join(sorted({words[0] for words in labels if words}))
    scores = [float(annotation["valence"]) for annotation in annotations if "valence" in annotation]
    if scores:
        lowest, highest = questions.valence_range or (min(scores), max(scores))
        if not lowest <= min(scores) <= max(scores) <= highest:
            on_fault(
                DataError(
                    f"{path}: valence runs from {min(scores):g} to {max(scores):g}, beyond data.valence_range="
                    f"[{lowest:g}, {highest:g}]; widen it, or leave it null"
                )
            )
        shared |= {"lowest": float(lowest), "highest": float(highest)}
    return shared


def _values(kind: str, row: Mapping[str, str], words: EmotionSet, reason: str) -> dict[str, str | float]:
    """Return the annotations of one row; raise ValueError with what is wrong."""
    if "reason" in QUESTION_COLUMNS[kind] and not reason.strip():
        raise ValueError("there is no reason (data.train_reasons)")
    match kind:
        case "onehot_w_candidates" if len(words) != 1:
            raise ValueError(f"there are {len(words)} labels in place of one")
        case "valence":
            return {"valence": _score(row)}
        case "sentiment":
            score = _score(row)
            return {"sentiment": "positive" if score > 0 else "negative" if score < 0 else "neutral"}
        case "preference":
            pair: dict[str, str | float] = {column: row[column] for column in ("a1", "a2")}
            if empty := [column for column in pair if not row[column].strip()]:
                raise ValueError(f"{empty[0]} is empty")
            return pair | {"preference": _choice(row, "preference", ("a1", "a2", "same"))}
        case "reward":
            return {"reward": _choice(row, "reward", ("accept", "reject"))}
    return {}


def _score(row: Mapping[str, str]) -> float:
    try:
        score = float(row["valence"])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"valence is {row['valence']!r} in place of a number")
    return score


def _choice(row: Mapping[str, str], column: str, known: tuple[str, ...]) -> str:
    value = row[column].strip()
    if value not in known:
        raise ValueError(f"{column} is {value!r} in place of {', '.join(known)}")
    return value
