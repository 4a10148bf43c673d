"""The emotion-wheel score a second time: written from the published definition, slow, with nothing of ours in it."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import openpyxl

WHEELS, LEVELS = range(1, 6), (1, 2)
GROUPINGS = ("case1", "case2", *(f"wheel{wheel}_level{level}" for level in LEVELS for wheel in WHEELS))


def read_labels(cell: str | list[str]) -> list[str]:
    """Split a cell such as ``"['happy', 'sad']"`` into its words."""
    words = re.split("['\",]", re.sub(r"^\[|\]$", "", cell)) if isinstance(cell, str) else cell
    return [word.strip().lower() for word in words if word.strip()]


def _rows(path: Path) -> list[dict[str, str]]:
    header, *rows = openpyxl.load_workbook(path)["Sheet1"].iter_rows(values_only=True)
    return [
        {key: str(cell or "").strip().lower() for key, cell in zip(header, row, strict=True) if key} for row in rows
    ]


class SlowScorer:
    """Maps words and scores samples by the workbooks in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.bases: dict[str, set[str]] = defaultdict(set)  # of each word form
        with (folder / "format.csv").open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                for form in read_labels(row["format"]):
                    self.bases[form].add(row["name"].strip().lower())
        self.wheel_words: dict[str, set[str]] = defaultdict(set)  # that list a base form as their synonym
        for row in _rows(folder / "synonym.xlsx"):
            for run in range(1, 9):
                if word := row[f"word_run{run}"]:
                    for synonym in [word, *read_labels(row[f"synonym_run{run}"])]:
                        self.wheel_words[synonym].add(word)
        self.wheels = {wheel: self._read_wheel(folder / f"wheel{wheel}.xlsx") for wheel in WHEELS}

    @staticmethod
    def _read_wheel(path: Path) -> list[tuple[str, str, str]]:
        """Return the rows, a blank cell filled with the one above it."""
        rows: list[tuple[str, str, str]] = []
        centre = child = ""
        for row in _rows(path):
            centre, child = row["level1"] or centre, row["level2"] or child
            if row["level3"]:
                rows.append((centre, child, row["level3"]))
        return rows

    def _cluster(self, wheel_word: str, wheel: int, level: int) -> str | None:
        """Look a wheel word up on one wheel; the last row that has it decides."""
        cluster = None
        for centre, child, leaf in self.wheels[wheel]:
            if level == 1 and wheel_word in (centre, child, leaf):
                cluster = centre
            elif level == 2 and wheel_word in (child, leaf):
                cluster = child
        children = [child for centre, child, _ in self.wheels[wheel] if centre == wheel_word]
        return min(children) if level == 2 and children else cluster

    def group(self, word: str, grouping: str) -> str | None:
        """Return what a word is taken for: its base form, its synonym or its cluster; None drops it."""
        bases = self.bases.get(word.strip().lower())
        if not bases:
            return None
        if grouping == "case1":
            return min(bases)
        if grouping == "case2":
            return min(self.wheel_words.get(min(bases), ()), default=None)
        wheel, level = (int(number) for number in re.findall(r"\d", grouping))
        reachable = sorted({word for base in bases for word in self.wheel_words.get(base, ())})
        clusters = [self._cluster(word, wheel, level) for word in reachable]
        return next((cluster for cluster in clusters if cluster is not None), None)

    def words(self, words: list[str]) -> dict[str, dict[str, str | None]]:
        """Return every grouping of each word."""
        return {word: {grouping: self.group(word, grouping) for grouping in GROUPINGS} for word in words}

    def scores(self, samples: list[dict[str, Any]], undefined: float = 0.0) -> dict[str, dict[str, float]]:
        """Return the published table of scores.

        Args:
            samples: Each with ``prediction`` and ``target``.
            undefined: F1 where precision and recall are both 0.
        """
        table = {grouping: self._score(samples, grouping, undefined) for grouping in GROUPINGS}
        for level in LEVELS:
            of_wheels = [table[f"wheel{wheel}_level{level}"] for wheel in WHEELS]
            table[f"mean_level{level}"] = {name: sum(one[name] for one in of_wheels) / 5 for name in of_wheels[0]}
        table["mer2025_challenge"] = {"f1": (table["mean_level1"]["f1"] + table["mean_level2"]["f1"]) / 2}
        return {f"case3_{name}" if name.startswith("wheel") else name: scores for name, scores in table.items()}

    def _score(self, samples: list[dict[str, Any]], grouping: str, undefined: float) -> dict[str, float]:
        precisions, recalls = [], []
        for sample in samples:
            predicted, target = (
                {self.group(word, grouping) for word in read_labels(sample[key])} - {None}
                for key in ("prediction", "target")
            )
            if target:
                hits = len(predicted & target)
                precisions.append(Fraction(hits, len(predicted)) if predicted else Fraction(0))
                recalls.append(Fraction(hits, len(target)))
        precision, recall = (sum(values, Fraction(0)) / len(values) for values in (precisions, recalls))
        f1 = float(2 * precision * recall / (precision + recall)) if precision + recall else undefined
        return {"precision": float(precision), "recall": float(recall), "f1": f1}
