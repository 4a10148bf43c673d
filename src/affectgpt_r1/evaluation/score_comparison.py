"""Several systems on the same clips: paired differences and mean ranks; and the scores clip by clip."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from affectgpt_r1.emotion.chat_extraction import text_extractor
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.points import points
from affectgpt_r1.evaluation.score_files import ScoredFiles
from affectgpt_r1.io.clean_text import counted, json_line
from affectgpt_r1.io.csv_format import spreadsheet_cell
from affectgpt_r1.io.files import write_text
from affectgpt_r1.metrics.bootstrap import paired_intervals
from affectgpt_r1.metrics.clip_names import pair_names
from affectgpt_r1.metrics.functional.wheel_f1 import Floats, batch_mean_set_f1, per_sample_scores, wheel_counts
from affectgpt_r1.metrics.prediction_files import NamedSets, read_named_sets
from affectgpt_r1.types import EmotionSet

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat

# q at 5 % of the studentized range for k systems, over the square root of 2 (Demšar, JMLR 2006, table 5)
_NEMENYI = dict(enumerate((1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164), start=2))


def read_rivals(
    paths: Sequence[Path], scored: ScoredFiles, own: Path, chat: Chat | None
) -> dict[str, list[EmotionSet]]:
    """Read other systems' answers to the clips that were scored; answers to further clips are passed over.

    Returns:
        The answers by system, named after its file; those of ``own`` come first.

    Raises:
        DataError: A file cannot be read, or lacks an answer.
    """
    names = [path.stem for path in (own, *paths)]
    names = names if len(set(names)) == len(names) else [str(path) for path in (own, *paths)]
    if len(set(names)) < len(names):
        raise DataError(f"--against: a file is given twice among {', '.join(names)}; keep one")
    systems = {names[0]: scored.answered.labels}
    for name, path in zip(names[1:], paths, strict=True):
        systems[name] = read_same_clips(path, scored, chat, "--against").labels
    return systems


def read_same_clips(path: Path, scored: ScoredFiles, chat: Chat | None, option: str) -> NamedSets:
    """Read answers to the clips that were scored, in their order and under their names in the targets.

    Raises:
        DataError: The file cannot be read, or lacks an answer; ``option`` names what wants them all.
    """
    sets = read_named_sets(path, text_extractor(scored.lexicon, chat))
    pairs, _ = pair_names(sets.names, scored.expected.names, subset=True)
    if len(pairs) < len(scored.expected.names):
        paired = {row for _, row in pairs}
        lacking = [clip for row, clip in enumerate(scored.expected.names) if row not in paired]
        raise DataError(
            f"{path}: lacks {len(lacking)} of the {len(scored.expected.names)} scored clips, such as {lacking[0]}; "
            f"{option} compares answers to the same clips"
        )
    return sets.of_rows([row for row, _ in pairs], scored.expected.names)


def compare_systems(
    systems: Mapping[str, Sequence[EmotionSet]], targets: Sequence[EmotionSet], lexicon: Lexicon, level: int = 1
) -> dict[str, Any]:
    """Compare systems, the first with each other, on the same ``N`` clips.

    Returns:
        ``level``; ``systems``: by name the corpus ``f1`` with ``interval``, the ``difference`` of the first system's
        to it with ``difference_interval`` (paired bootstrap, one resampling for all) and the ``mean_rank`` of its
        set F1 on the ``clips`` that count (1 is best); ``critical_difference`` of mean ranks at 5 %, None for more
        systems than are tabulated.

    Raises:
        DataError: No target maps onto a wheel.
    """
    counts = {name: wheel_counts(answers, targets, lexicon, level) for name, answers in systems.items()}
    first = next(iter(counts))
    if not (counts[first].relevant > 0).any():
        raise DataError(f"nothing to compare: no target is in the {lexicon.name} lexicon")
    intervals = paired_intervals(counts)
    scores = np.array(
        [
            [score for score in batch_mean_set_f1(answers, targets, lexicon, level) if score is not None]
            for answers in systems.values()
        ]
    )
    mean_ranks = _mean_ranks(scores)
    num_systems, num_clips = scores.shape
    # Nemenyi: CD = q sqrt(k (k + 1) / (6 N)) for k systems on N clips.
    q = _NEMENYI.get(num_systems)
    critical = None if q is None else q * math.sqrt(num_systems * (num_systems + 1) / (6 * num_clips))
    return {
        "level": level,
        "clips": num_clips,
        "critical_difference": critical,
        "systems": {
            name: {
                "f1": own.estimate,
                "interval": [own.low, own.high],
                "difference": None if name == first else difference.estimate,
                "difference_interval": None if name == first else [difference.low, difference.high],
                "mean_rank": float(mean_rank),
            }
            for (name, (own, difference)), mean_rank in zip(intervals.items(), mean_ranks, strict=True)
        },
    }


def _mean_ranks(scores: Floats) -> list[float]:
    """Return each system's mean rank over the clips, given ``(K, N)`` scores; ties share the mean of their ranks."""
    better = [(scores > own).sum(0) for own in scores]
    equal = [(scores == own).sum(0) for own in scores]
    return [float((1 + above + (tied - 1) / 2).mean()) for above, tied in zip(better, equal, strict=True)]


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """Return the table of :func:`compare_systems`, best system first."""
    first = next(iter(comparison["systems"]))
    title = f"Systems on the same {counted(comparison['clips'], 'clip', 'clips')}, level {comparison['level']}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("F1", f"{first} minus it", "mean rank"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in sorted(comparison["systems"].items(), key=lambda item: -item[1]["f1"]):
        difference = points(row["difference"], row["difference_interval"], signed=True)
        table.add_row(name, points(row["f1"], row["interval"]), difference, f"{row['mean_rank']:.2f}")
    notes = "Paired bootstrap: an interval that holds 0 shows no difference."
    if comparison["critical_difference"] is not None:
        notes += f" Mean ranks less than {comparison['critical_difference']:.2f} apart do not differ (Nemenyi, 5 %)."
    table.caption = notes
    return table


def clip_rows(scored: ScoredFiles, level: int) -> list[dict[str, Any]]:
    """Return each clip's scores, in the order of the targets.

    ``f1``, ``precision`` and ``recall`` are means over the wheels onto which the target maps, None where there is none;
    ``unmapped`` are the predicted words that no wheel knows.
    """
    answered, expected, lexicon = scored.answered.labels, scored.expected.labels, scored.lexicon
    scores = per_sample_scores(wheel_counts(answered, expected, lexicon, level))
    num_wheels = scores.counted.sum(1)
    # Where no wheel counts all sums are 0, so that 0 / 1 takes the place of 0 / 0; the row then shows None.
    precision, recall = (
        (part * scores.counted).sum(1) / np.maximum(num_wheels, 1) for part in (scores.precision, scores.recall)
    )
    f1 = batch_mean_set_f1(answered, expected, lexicon, level)
    return [
        {
            "name": name,
            "f1": f1[row],
            "precision": float(precision[row]) if num_wheels[row] else None,
            "recall": float(recall[row]) if num_wheels[row] else None,
            "predicted": list(answered[row]),
            "target": list(expected[row]),
            "unmapped": [word for word in answered[row] if word not in lexicon],
        }
        for row, name in enumerate(scored.expected.names)
    ]


def write_per_clip(path: Path, scored: ScoredFiles, level: int) -> None:
    """Write :func:`clip_rows` as ``.csv`` or ``.jsonl``.

    Raises:
        DataError: The suffix is another.
        WriteError: The file cannot be written.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise DataError(f"--per-clip {path}: the suffix is neither .csv nor .jsonl; rename it")
    rows = clip_rows(scored, level)
    if path.suffix == ".jsonl":
        text = "".join(map(json_line, rows))
    else:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_cell(value) for value in row.values()] for row in rows)
        text = file.getvalue()
    write_text(path, text, elsewhere="choose another --per-clip")


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = ", ".join(value)
    return spreadsheet_cell(value) if isinstance(value, str) else value
