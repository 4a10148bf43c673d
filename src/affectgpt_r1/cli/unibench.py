"""Score MER-UniBench and single-label recognition: ``affectgpt-r1 unibench --predictions FOLDER --data FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectgpt_r1.cli.command import run_command
from affectgpt_r1.cli.scoring import add_chat_options, chat_from, report_console
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.plain_json import write_json

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat
    from affectgpt_r1.emotion.wheels import Lexicon
    from affectgpt_r1.evaluation.unibench_scores import SetPredictions


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: With code 2 after bad input, which is named in one line.
    """
    run_command(_parser(), unibench, arguments)


def unibench(options: argparse.Namespace) -> dict[str, Any]:
    """Read predictions and labels, print the tables and write ``--json``.

    Args:
        options: See ``--help``.

    Returns:
        ``unibench``, of :func:`~affectgpt_r1.evaluation.unibench_scores.unibench_over_checkpoints`, None where none of
        the nine sets was predicted; ``recognition`` of the chosen checkpoint, of
        :func:`~affectgpt_r1.evaluation.unibench_scores.recognition_table`; ``labels_of_free_text`` and ``sentiment``,
        what made them.

    Raises:
        AffectGPTError: If a file, the lexicon or the pairing of names is at fault.
    """
    from affectgpt_r1.emotion.lexicon import load_lexicon
    from affectgpt_r1.evaluation.unibench_tables import recognition_rich_table, unibench_rich_table

    lexicon, chat = load_lexicon(options.lexicon), chat_from(options)
    if options.sentiment == "chat" and chat is None:
        raise ConfigError("--sentiment chat needs a chat model: give --chat-model, and --chat-url for a server")
    checkpoints, chosen = _read_predictions(options, lexicon, chat)
    report = _score(options, checkpoints, chosen, lexicon, chat)
    console = report_console()
    if report["unibench"] is not None:
        console.print(unibench_rich_table(report["unibench"]))
        console.print(f"Sentiment of the labels by {report['sentiment']}.")
    if report["recognition"]:
        console.print(recognition_rich_table(report["recognition"]))
    console.print(f"Labels of free text by {report['labels_of_free_text']}.")
    if options.json is not None:
        write_json(options.json, report, "choose another --json")
    return report


def _read_predictions(
    options: argparse.Namespace, lexicon: Lexicon, chat: Chat | None
) -> tuple[dict[str, SetPredictions], str]:
    """Predictions by checkpoint, and the chosen one."""
    from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS
    from affectgpt_r1.data.layouts.recognition_sets import FOLDERS
    from affectgpt_r1.emotion.chat_extraction import text_extractor
    from affectgpt_r1.metrics.prediction_files import read_named_sets
    from affectgpt_r1.metrics.prediction_folders import prediction_files

    files = prediction_files(options.predictions, (*LAYOUTS, *FOLDERS))
    chosen = options.checkpoint or next(iter(files))
    if chosen not in files or (len(files) > 1 and options.checkpoint is None):
        names = ", ".join(filter(None, files)) or "none"
        raise ConfigError(f"--checkpoint names the one that was chosen without test clips, out of {names}")
    extract = text_extractor(lexicon, chat)
    checkpoints: dict[str, SetPredictions] = {}
    for checkpoint, paths in files.items():
        read = {name: read_named_sets(path, extract) for name, path in paths.items()}
        checkpoints[checkpoint] = {name: dict(zip(sets.names, sets.labels, strict=True)) for name, sets in read.items()}
    return checkpoints, chosen


def _score(
    options: argparse.Namespace,
    checkpoints: dict[str, SetPredictions],
    chosen: str,
    lexicon: Lexicon,
    chat: Chat | None,
) -> dict[str, Any]:
    from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench_set
    from affectgpt_r1.data.layouts.recognition_sets import FOLDERS, read_recognition_set
    from affectgpt_r1.emotion.chat_extraction import sentiment_by
    from affectgpt_r1.evaluation.unibench_scores import recognition_table, unibench_over_checkpoints, unibench_table

    predicted = checkpoints[chosen]
    sets = {
        name: read_unibench_set(options.data / LAYOUTS[name].folder, name, transcription=False)
        for name in LAYOUTS
        if name in predicted
    }
    single = {
        name: read_recognition_set(options.data / FOLDERS[name], name, options.fold)
        for name in FOLDERS
        if name in predicted
    }
    sentiment_of = sentiment_by(chat) if chat is not None and options.sentiment == "chat" else None
    summary = None
    if sets and len(checkpoints) == 1:
        summary = unibench_table(predicted, sets, lexicon, sentiment_of)
    elif sets:
        summary = unibench_over_checkpoints(checkpoints, sets, lexicon, chosen, sentiment_of)
    return {
        "unibench": summary,
        "recognition": recognition_table(predicted, single),
        "labels_of_free_text": f"chat model {chat.identity}" if chat else f"offline search, {lexicon.name} lexicon",
        "sentiment": f"chat model {chat.identity}" if chat and sentiment_of else "the offline word map",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 unibench",
        description="Score predictions on MER-UniBench (the mean of nine), and on DFEW, MAFW and RAVDESS.",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        help="folder of mer2023.csv, meld.jsonl, ... as for `affectgpt-r1 score`, for each set that is to be scored; "
        "or of such a folder for each of several checkpoints",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets' published folders (data/README)")
    parser.add_argument("--checkpoint", help="the one of several that was chosen without test clips")
    parser.add_argument("--lexicon", default="bundled", help="bundled, mer2025, mer2026 or a folder (%(default)s)")
    parser.add_argument("--fold", type=int, default=1, help="test fold of DFEW and MAFW, 1 to 5 (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every metric")
    parser.add_argument(
        "--sentiment", choices=("words", "chat"), default="words", help="by word map or chat model (%(default)s)"
    )
    add_chat_options(parser)
    return parser


if __name__ == "__main__":
    main()
