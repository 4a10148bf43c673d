"""Score folders of predictions on MER-UniBench, and on DFEW, MAFW and RAVDESS."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench_set
from affectgpt_r1.data.layouts.recognition_sets import FOLDERS, read_recognition_set
from affectgpt_r1.emotion.chat_extraction import SENTIMENTS, sentiment_by, text_extractor
from affectgpt_r1.emotion.extraction import AGREEMENT, Extraction
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.evaluation.score_files import empty_wheel_note, provenance
from affectgpt_r1.evaluation.unibench_scores import (
    recognition_table,
    unibench_over_checkpoints,
    unibench_table,
)
from affectgpt_r1.metrics.functional.wheel_f1 import NoTarget
from affectgpt_r1.metrics.prediction_files import read_named_sets
from affectgpt_r1.metrics.prediction_folders import SetFiles, prediction_files
from affectgpt_r1.types import EmotionSet

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat


def score_folders(
    predictions: Path,
    data: Path,
    *,
    checkpoint: str | None = None,
    lexicon: str = "bundled",
    fold: int = 1,
    chat: Chat | None = None,
    sentiment_by_chat: bool = False,
    no_target: NoTarget = "leave",
) -> dict[str, Any]:
    """Score a folder of predictions by set, or one such folder for each of several checkpoints.

    Args:
        predictions: Holds ``mer2023.csv``, ``meld.jsonl``, ...
        data: Folder of the sets' published folders.
        checkpoint: The one of several that was chosen without test clips, by its name or a part that no other has;
            None scores each as published only.
        lexicon: Name or folder.
        fold: Test fold of DFEW and MAFW, 1 to 5.
        chat: Extracts the labels of free text; None searches for the lexicon's words.
        sentiment_by_chat: Let ``chat`` judge the labels' sentiment, too.
        no_target: A wheel on which no target counts, in the published metrics.

    Returns:
        ``unibench``, of :func:`~.unibench_scores.unibench_over_checkpoints`, None where none of the nine sets was
        predicted; ``recognition`` of the chosen checkpoint, of :func:`~.unibench_scores.recognition_table`;
        ``labels_of_free_text`` and ``sentiment``, what made them; ``notes``, what a reader should know.

    Raises:
        AffectGPTError: A file, the lexicon or the pairing of names is at fault.
    """
    words = load_lexicon(lexicon)
    if sentiment_by_chat and chat is None:
        raise ConfigError("--sentiment chat needs a chat model: give --chat-model, and --chat-url for a server")
    files = prediction_files(predictions, (*LAYOUTS, *FOLDERS))
    chosen = _chosen(checkpoint, list(files))
    absent = _absent_sets(next(iter(files.values())), data)
    notes = [f"{name} was predicted and not scored: {data / folder} does not exist." for name, folder in absent.items()]
    extract = text_extractor(words, chat)
    read = {
        checkpoint: {name: _read(paths, extract, notes) for name, paths in of_set.items() if name not in absent}
        for checkpoint, of_set in files.items()
    }
    answers = {checkpoint: {name: rows[0] for name, rows in sets.items()} for checkpoint, sets in read.items()}
    given = {
        checkpoint: {name: rows[1] for name, rows in sets.items() if rows[1] is not None}
        for checkpoint, sets in read.items()
    }
    predicted = answers[chosen or next(iter(answers))]
    sets = {
        name: read_unibench_set(data / layout.folder, name, transcription=False)
        for name, layout in LAYOUTS.items()
        if name in predicted
    }
    single_label_sets = {
        name: read_recognition_set(data / folder, name, fold) for name, folder in FOLDERS.items() if name in predicted
    }
    sentiment_of = sentiment_by(chat) if chat is not None and sentiment_by_chat else None
    if sentiment_of is not None:
        given = {}
    summary = None
    if sets and len(answers) == 1:
        summary = unibench_table(predicted, sets, words, sentiment_of, given.get(next(iter(answers))), no_target)
    elif sets:
        summary = unibench_over_checkpoints(answers, sets, words, chosen, sentiment_of, given, no_target)
    if no_target == "leave" and summary is not None:
        notes += _empty_wheel_notes(summary)
    return {
        "unibench": summary,
        "recognition": recognition_table(predicted, single_label_sets),
        "labels_of_free_text": f"chat model {chat.identity}"
        if chat
        else f"offline search, {words.name} lexicon; {AGREEMENT}",
        "sentiment": _sentiment_source(chat if sentiment_of else None, given),
        "notes": notes,
        **provenance(words),
    }


def _absent_sets(predicted: Container[str], data: Path) -> dict[str, str]:
    """Return the sets that were predicted and have no folder, by name; nothing if none has: the reader will say so."""
    folders = {name: layout.folder for name, layout in LAYOUTS.items() if name in predicted}
    absent = {name: folder for name, folder in folders.items() if not (data / folder).is_dir()}
    return absent if len(absent) < len(folders) else {}


def _empty_wheel_notes(summary: Mapping[str, Any]) -> list[str]:
    return [
        empty_wheel_note(f"on {wheels:g} wheels of {name}")
        for name, metrics in summary["sets"].items()
        if (wheels := metrics["details"].get("empty_wheels", 0))
    ]


def _chosen(wanted: str | None, names: list[str]) -> str | None:
    if wanted is None:
        return names[0] if len(names) == 1 else None
    like = [name for name in names if name == wanted] or [name for name in names if wanted in name]
    if len(like) != 1:
        shown = ", ".join(filter(None, names)) or "none"
        raise ConfigError(f"--checkpoint names the one that was chosen without test clips, out of {shown}")
    return like[0]


def _read(
    files: SetFiles, extract: Callable[[str], Extraction], notes: list[str]
) -> tuple[dict[str, EmotionSet], dict[str, int] | None]:
    """Return labels and, if there is such a file, sentiment by clip."""
    rows = read_named_sets(files.answers, extract)
    notes += [note.replace(f"; {AGREEMENT}", "") for note in rows.notes]  # said once of all files
    labels = dict(zip(rows.names, rows.labels, strict=True))
    if files.sentiment is None:
        return labels, None
    judged = read_named_sets(files.sentiment, extract)
    sentiment = {
        name: SENTIMENTS.get(
            words[0].lower() if len(words) == 1 else "", 0
        )  # any other answer is neutral, as published
        for name, words in zip(judged.names, judged.labels, strict=True)
    }
    return labels, sentiment


def _sentiment_source(chat: Chat | None, given: Mapping[str, Mapping[str, object]]) -> str:
    if chat is not None:
        return f"chat model {chat.identity}"
    if not any(given.values()):
        return "the offline word map"
    return f"the files of sentiment for {', '.join(sorted(set().union(*given.values())))}, else by the offline word map"
