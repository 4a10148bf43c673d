"""Score folders of predictions on MER-UniBench, and on DFEW, MAFW and RAVDESS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench_set
from affectgpt_r1.data.layouts.recognition_sets import FOLDERS, read_recognition_set
from affectgpt_r1.emotion.chat_extraction import sentiment_by, text_extractor
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.evaluation.unibench_scores import (
    SetPredictions,
    recognition_table,
    unibench_over_checkpoints,
    unibench_table,
)
from affectgpt_r1.metrics.prediction_files import read_named_sets
from affectgpt_r1.metrics.prediction_folders import prediction_files

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
) -> dict[str, Any]:
    """Score a folder of predictions by set, or one such folder for each of several checkpoints.

    Args:
        predictions: Holds ``mer2023.csv``, ``meld.jsonl``, ...
        data: Folder of the sets' published folders.
        checkpoint: The one of several that was chosen without test clips.
        lexicon: Name or folder.
        fold: Test fold of DFEW and MAFW, 1 to 5.
        chat: Extracts the labels of free text; None searches for the lexicon's words.
        sentiment_by_chat: Let ``chat`` judge the labels' sentiment, too.

    Returns:
        ``unibench``, of :func:`~.unibench_scores.unibench_over_checkpoints`, None where none of the nine sets was
        predicted; ``recognition`` of the chosen checkpoint, of :func:`~.unibench_scores.recognition_table`;
        ``labels_of_free_text`` and ``sentiment``, what made them.

    Raises:
        AffectGPTError: A file, the lexicon or the pairing of names is at fault.
    """
    words = load_lexicon(lexicon)
    if sentiment_by_chat and chat is None:
        raise ConfigError("--sentiment chat needs a chat model: give --chat-model, and --chat-url for a server")
    checkpoints, chosen = _read_checkpoints(predictions, checkpoint, words, chat)
    predicted = checkpoints[chosen]
    sets = {
        name: read_unibench_set(data / layout.folder, name, transcription=False)
        for name, layout in LAYOUTS.items()
        if name in predicted
    }
    single_label_sets = {
        name: read_recognition_set(data / folder, name, fold) for name, folder in FOLDERS.items() if name in predicted
    }
    sentiment_of = sentiment_by(chat) if chat is not None and sentiment_by_chat else None
    summary = None
    if sets and len(checkpoints) == 1:
        summary = unibench_table(predicted, sets, words, sentiment_of)
    elif sets:
        summary = unibench_over_checkpoints(checkpoints, sets, words, chosen, sentiment_of)
    return {
        "unibench": summary,
        "recognition": recognition_table(predicted, single_label_sets),
        "labels_of_free_text": f"chat model {chat.identity}" if chat else f"offline search, {words.name} lexicon",
        "sentiment": f"chat model {chat.identity}" if chat and sentiment_of else "the offline word map",
    }


def _read_checkpoints(
    folder: Path, chosen: str | None, lexicon: Lexicon, chat: Chat | None
) -> tuple[dict[str, SetPredictions], str]:
    """Return the predictions by checkpoint, and the chosen one."""
    files = prediction_files(folder, (*LAYOUTS, *FOLDERS))
    if (len(files) > 1 and chosen is None) or (chosen is not None and chosen not in files):
        names = ", ".join(filter(None, files)) or "none"
        raise ConfigError(f"--checkpoint names the one that was chosen without test clips, out of {names}")
    extract = text_extractor(lexicon, chat)
    checkpoints: dict[str, SetPredictions] = {}
    for checkpoint, paths in files.items():
        sets = {name: read_named_sets(path, extract) for name, path in paths.items()}
        checkpoints[checkpoint] = {name: dict(zip(rows.names, rows.labels, strict=True)) for name, rows in sets.items()}
    return checkpoints, chosen or next(iter(files))
