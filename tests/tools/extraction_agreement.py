"""Print how far the labels found in published answers agree with those that a language model took from the same text.

``python tests/tools/extraction_agreement.py PUBLISHED_OUTPUTS [LEXICON]``. Half of the clips, by a digest of the name,
were learnt from; figures are of the other half unless it says so. The systems' ranks are by their score against human
labels.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import score_table
from affectgpt_r1.metrics.prediction_rows import RowReader
from affectgpt_r1.types import EmotionSet


class Answers(NamedTuple):
    """A system's answers to clips."""

    system: str
    names: list[str]
    texts: list[str]
    labels: list[EmotionSet]  # by a language model

    def found(self, lexicon: Lexicon) -> list[EmotionSet]:
        """Return what the search finds."""
        return [extract_labels(text, lexicon).labels for text in self.texts]


def is_learnt_from(name: str) -> bool:
    """Return whether word lists and rules may follow from answers about this clip."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 == 0


def read_answers(folder: Path, pattern: str, *, learnt: bool | None = False, every: int = 1) -> Iterator[Answers]:
    """Yield answers of files ``pattern-openset.npz`` below ``folder``, of the half to report on.

    Args:
        folder: The published outputs.
        pattern: As of ``Path.glob``.
        learnt: The half that was learnt from; None for both.
        every: Keep each ``every``-th clip only.
    """
    for file in sorted(folder.glob(f"{pattern}-openset.npz")):
        labels = {row.name: row.labels for row in RowReader(file, {}).rows()}
        texts = RowReader(file.with_name(file.name.replace("-openset", "")), {}).rows()
        kept = [row for row in texts if row.name in labels and learnt in (None, is_learnt_from(row.name))][::every]
        yield Answers(
            f"{file.parent.name} {file.stem.removesuffix('-openset')}",
            [row.name for row in kept],
            [row.free_text for row in kept],
            [parse_labels(labels[row.name]) for row in kept],
        )


def agreement(answers: list[Answers], lexicon: Lexicon) -> float:
    """Return the level-1 F1 of all answers."""
    found = [labels for system in answers for labels in system.found(lexicon)]
    return f1(found, [labels for system in answers for labels in system.labels], lexicon)


def f1(predictions: list[EmotionSet], targets: list[EmotionSet], lexicon: Lexicon) -> float:
    """Return the mean F1 over the wheels at level 1."""
    return score_table(predictions, targets, lexicon)["mean_level1"]["f1"]


def kendall_tau(first: list[float], second: list[float]) -> float:
    """Return (concordant - discordant) / all pairs."""
    pairs = list(combinations(zip(first, second, strict=True), 2))
    products = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in pairs]
    return sum((product > 0) - (product < 0) for product in products) / len(pairs)


def rank_agreement(answers: list[Answers], human: dict[str, EmotionSet], lexicon: Lexicon) -> float:
    """Return the rank correlation of the systems' scores by found and by the language model's labels."""
    scores = []
    for system in answers:
        targets = [human[name] for name in system.names]
        scores.append([f1(labels, targets, lexicon) for labels in (system.found(lexicon), system.labels)])
    by_found, by_model = map(list, zip(*scores, strict=True))
    return kendall_tau(by_found, by_model)


def human_labels(folder: Path) -> dict[str, EmotionSet]:
    """Return the checked labels of OV-MERD."""
    with (folder / "mer2024" / "check-openset.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["name"]: parse_labels(row["openset"]) for row in csv.DictReader(file)}


def main(folder: str, name: str = "mer2025") -> None:
    """Print the table."""
    root, lexicon = Path(folder), load_lexicon(name)
    for what, pattern in (
        ("descriptions by seven models", "ov_merd/*/*"),
        ("  without the subtitle", "ov_merd/*/*-nosubtitle-eng"),
        ("  with the subtitle", "ov_merd/*/*-7b-subtitle-eng"),
        ("  EMER-like, subtitle merged afterwards", "ov_merd/*/*-addsub-eng"),
        ("AffectGPT's answers", "unibench/*/*/*"),
    ):
        answers = list(read_answers(root, pattern))
        number = sum(len(system.names) for system in answers)
        print(f"{what}: F1 {agreement(answers, lexicon):.4f}, {number} answers of {len(answers)} files")
    for what, learnt in (("reported half", False), ("all clips", None)):
        answers = list(read_answers(root, "ov_merd/*/*", learnt=learnt))
        print(f"tau of {len(answers)} systems, {what}: {rank_agreement(answers, human_labels(root), lexicon):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
