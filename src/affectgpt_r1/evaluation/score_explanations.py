"""Score a file of explanations as EMER does, by a chat model, and offline: ``affectgpt-r1 score --explanations``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from affectgpt_r1.emotion.chat_explanation import LOWEST, rate_clues, rate_labels
from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.score_files import provenance
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.metrics.bootstrap import mean_interval
from affectgpt_r1.metrics.clip_names import pair_names
from affectgpt_r1.metrics.functional.explanation import clue_similarity
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.metrics.prediction_rows import FREE_TEXT, RowReader

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat

_TITLES = {
    "clue_overlap": "EMER clue overlap, 1 to 10",
    "label_overlap": "EMER label overlap, 1 to 10",
    "offline_clue_similarity": "offline: clauses in the same words, 0 to 1 (not the published score)",
    "offline_label_f1": "offline: wheel F1 of the words found, 0 to 1 (not the published score)",
}


def score_explanations(
    predictions: Path,
    targets: Path,
    *,
    lexicon: str = "bundled",
    chat: Chat | None = None,
    subset: bool = False,
    columns: Mapping[str, str] | None = None,
    target_columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score free text against reference descriptions of the same clips.

    Args:
        predictions: ``name`` and ``reason``, in any format that ``affectgpt-r1 score`` reads.
        targets: The same, of the references.
        lexicon: Name or folder, of the offline F1.
        chat: Rates the overlaps; None for offline scores alone.
        subset: Let references without a prediction pass.
        columns: What ``name`` and ``reason`` are called in ``predictions``.
        target_columns: The same in ``targets``.

    Returns:
        ``samples``; ``judge``, the chat's identity; ``scores``, each with ``mean``, ``interval`` and ``rated``, the
        clips that have one; ``clips``, the same by name; ``notes``. An empty prediction has the lowest rating.

    Raises:
        AffectGPTError: A file, the lexicon, the pairing of names or the chat is at fault.
    """
    words = load_lexicon(lexicon)
    (given, notes), (wanted, target_notes) = _read_texts(predictions, columns), _read_texts(targets, target_columns)
    pairs, name_notes = pair_names(list(given), list(wanted), subset=subset)
    notes += target_notes + name_notes
    names = [list(wanted)[row] for _, row in pairs]
    texts = [(list(given.values())[own], wanted[name]) for (own, _), name in zip(pairs, names, strict=True)]
    if blank := [name for name, (_, reference) in zip(names, texts, strict=True) if not reference.strip()]:
        raise DataError(f"{targets}: the reference of {blank[0]!r} is empty; leave the clip out, and give --subset")
    ratings: dict[str, list[float | None]] = {}
    if chat is not None:
        for name, rate in (("clue_overlap", rate_clues), ("label_overlap", rate_labels)):
            ratings[name] = [rate(chat, reference, own) if own.strip() else LOWEST for own, reference in texts]
    ratings["offline_clue_similarity"] = [clue_similarity(reference, own) for own, reference in texts]
    found, expected = ([extract_labels(text, words).labels for text in side] for side in zip(*texts, strict=True))
    ratings["offline_label_f1"] = batch_mean_set_f1(found, expected, words)
    for name, values in ratings.items():
        if "overlap" in name and (missed := values.count(None)):
            answers = counted(missed, "answer of the chat model has", "answers of the chat model have")
            notes.append(f"{name}: {answers} no rating from 1 to 10, which is left out of the mean.")
    if empty := sum(not own.strip() for own, _ in texts):
        notes.append(f"{counted(empty, 'prediction is', 'predictions are')} empty: the lowest rating, unasked.")
    return {
        "samples": len(names),
        "judge": chat.identity if chat is not None else None,
        "lexicon": words.name,
        **provenance(words),
        "scores": {name: _mean(values) for name, values in ratings.items()},
        "clips": {
            name: {kind: values[row] for kind, values in ratings.items()} for row, name in enumerate(names)
        },
        "notes": notes,
    }  # fmt: skip


def _read_texts(path: Path, columns: Mapping[str, str] | None) -> tuple[dict[str, str], list[str]]:
    """Return free text by clip name, and what was taken for something else than it is called."""
    texts: dict[str, str] = {}
    reader = RowReader(path, columns or {})
    for row in reader.rows():
        if not isinstance(row.free_text, str):
            raise DataError(
                f"{path}, {row.place}: no free text under {FREE_TEXT!r}; name its column by --columns reason=COLUMN "
                "or --target-columns reason=COLUMN"
            )
        name = str(row.name).strip()
        if not name or name in texts:
            raise DataError(f"{path}, {row.place}: the name {name!r} is {'there twice' if name else 'empty'}")
        texts[name] = row.free_text
    if not texts:
        raise DataError(f"{path}: the file has no rows")
    return texts, [f"{path.name}: {note}." for note in reader.notes]


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    rated = np.array([value for value in values if value is not None])
    if not len(rated):
        return {"mean": None, "interval": None, "rated": 0}
    interval = mean_interval(rated)
    return {"mean": interval.estimate, "interval": [interval.low, interval.high], "rated": len(rated)}


def explanation_table(report: Mapping[str, Any]) -> Table:
    """Return the table of :func:`score_explanations`."""
    judge = f"rated by {report['judge']}" if report["judge"] else "offline alone: --chat-model has the EMER scores"
    table = Table(title=f"Explanations ({counted(report['samples'], 'clip', 'clips')}, {judge})", title_justify="left")
    for column in ("", "mean", "95 % interval", "clips"):
        table.add_column(column, justify="right" if column else "left")
    for name, score in report["scores"].items():
        mean, bounds = "", ""
        if score["mean"] is not None:
            mean, bounds = f"{score['mean']:.2f}", "{:.2f} to {:.2f}".format(*score["interval"])
        table.add_row(_TITLES[name], mean, bounds, str(score["rated"]))
    table.caption = "Bootstrap over clips. Ratings by different models, or by other prompts than ours, do not compare."
    return table
