"""Answers with a modality masked against the full answers: what changes, and what is still said of the masked one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.evaluation.points import points
from affectgpt_r1.evaluation.score_comparison import read_same_clips
from affectgpt_r1.evaluation.score_files import ScoredFiles
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.metrics.bootstrap import paired_difference_interval
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1, wheel_counts
from affectgpt_r1.types import EmotionSet

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat

CUES: Mapping[str, re.Pattern[str]] = {
    "audio": re.compile(
        r"\b(?:voices?|tones?|pitch|intonation|vocal|volume|loud(?:ly)?|audio|speech rate|sighs?)\b", re.I
    ),
    "video": re.compile(
        r"\b(?:faces?|facial|smil(?:es?|ing)|frown\w*|brows?|eyebrows?|eyes?|gaze|gestur\w+|posture|mouth|lips|video|"
        r"visual|frames?|body language)\b",
        re.I,
    ),
    "text": re.compile(r"\b(?:subtitles?|captions?|dialogue|transcript|spoken words|sentences?)\b", re.I),
}
"""What a text says of each modality. A text may deny it, too: read some before calling them hallucinated."""
_SHOWN = 5


def score_masked(
    masked: Mapping[str, Path], scored: ScoredFiles, chat: Chat | None = None, level: int = 1
) -> dict[str, dict[str, Any]]:
    """Compare answers that were given without a modality with the scored ones, on the same ``N`` clips.

    Args:
        masked: Files of answers by the modality that was masked.
        scored: The full answers and the targets.
        chat: See :func:`~.score_files.score_files`.
        level: Ring of the wheels.

    Returns:
        By modality: ``clips``; the ``changed`` fraction, with other clusters on any wheel; ``agreement``, the mean set
        F1 of the two answers; ``drop`` of the corpus F1 with its ``interval`` (paired); the commonest words ``lost``
        and ``gained`` (first representatives of their synonyms); and, where the file has free text and the modality is
        audio, video or text, the fraction that still names its ``cues``, and that of the full answers, ``cues_full``.

    Raises:
        DataError: A file cannot be read, or lacks an answer.
    """
    lexicon, full, targets = scored.lexicon, scored.answered, scored.expected.labels
    full_counts = wheel_counts(full.labels, targets, lexicon, level)
    report = {}
    for modality, path in masked.items():
        answers = read_same_clips(path, scored, chat, "--masked")
        overlap = wheel_counts(answers.labels, full.labels, lexicon, level)
        changed = (2 * overlap.hits != overlap.predicted + overlap.relevant).any(1)
        similar = [
            score for score in batch_mean_set_f1(answers.labels, full.labels, lexicon, level) if score is not None
        ]
        counts = wheel_counts(answers.labels, targets, lexicon, level)
        relevant = bool((counts.relevant > 0).any())
        drop = paired_difference_interval(full_counts, counts) if relevant else None
        lost, gained = _moved(full.labels, answers.labels, lexicon)
        report[modality] = {
            "clips": len(targets),
            "changed": float(changed.mean()),
            "agreement": sum(similar) / len(similar) if similar else None,
            "drop": drop.estimate if drop else None,
            "interval": [drop.low, drop.high] if drop else None,
            "lost": lost,
            "gained": gained,
            "cues": _cue_rate(answers.texts, modality),
            "cues_full": _cue_rate(full.texts, modality),
        }
    return report


def _moved(
    full: Sequence[EmotionSet], masked: Sequence[EmotionSet], lexicon: Lexicon
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return the commonest words that are in one of the two answers to a clip only."""
    pairs = [
        tuple({lexicon.synonym(word) or word.strip().lower() for word in words} for words in pair)
        for pair in zip(full, masked, strict=True)
    ]
    lost = Counter(chain.from_iterable(sorted(before - after) for before, after in pairs))
    gained = Counter(chain.from_iterable(sorted(after - before) for before, after in pairs))
    return lost.most_common(_SHOWN), gained.most_common(_SHOWN)


def _cue_rate(texts: Sequence[str], modality: str) -> float | None:
    told = [text for text in texts if text.strip()]
    cue = CUES.get(modality)
    return sum(cue.search(text) is not None for text in told) / len(told) if cue and told else None


def masked_table(report: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of :func:`score_masked`."""
    clips = counted(next(iter(report.values()))["clips"], "clip", "clips")
    table = Table(title=f"With a modality masked, against the full answers ({clips})", title_justify="left")
    table.add_column("masked")
    for heading in ("changed %", "agreement", "drop of F1", "names its cues %", "full answers %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("words lost; gained")
    for modality, row in report.items():
        moved = "; ".join(
            ", ".join(f"{word} {count}" for word, count in row[key]) or "none" for key in ("lost", "gained")
        )
        drop = points(row["drop"], row["interval"], signed=True)
        cues = points(row["cues"], digits=1), points(row["cues_full"], digits=1)
        table.add_row(modality, points(row["changed"], digits=1), points(row["agreement"]), drop, *cues, moved)
    table.caption = (
        "Changed: other clusters on any wheel. A text that names cues of what was masked may have made them up."
    )
    return table
