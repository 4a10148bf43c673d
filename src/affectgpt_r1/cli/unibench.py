"""Score MER-UniBench and single-label recognition: ``affectgpt-r1 unibench --predictions FOLDER --data FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.cli.options import (
    add_chat_options,
    add_json_option,
    add_lexicon_option,
    add_no_target_option,
    chat_from,
    report_console,
    save_json,
)
from affectgpt_r1.evaluation.unibench_tables import (
    TITLES,
    checkpoints_rich_table,
    recognition_rich_table,
    unibench_rich_table,
)

choices_rich_table = lazy("evaluation.unibench_choice:choices_rich_table")
score_folders = lazy("evaluation.score_folders:score_folders")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_command(_parser(), unibench, arguments)


def unibench(options: argparse.Namespace) -> None:
    """Print the tables and write ``--json``."""
    report = score_folders(
        options.predictions,
        options.data,
        checkpoint=options.checkpoint,
        lexicon=options.lexicon,
        fold=options.fold,
        chat=chat_from(options),
        sentiment_by_chat=options.sentiment == "chat",
        no_target=options.no_target,
    )
    console = report_console()
    if report["unibench"] is not None:
        console.print(unibench_rich_table(report["unibench"]))
        if report["unibench"]["checkpoints"] is not None:
            console.print(checkpoints_rich_table(report["unibench"]))
            console.print(choices_rich_table(report["unibench"]["choice"], TITLES))
        console.print(f"Sentiment of the labels by {report['sentiment']}.")
    if report["recognition"]:
        console.print(recognition_rich_table(report["recognition"]))
    console.print(f"Labels of free text by {report['labels_of_free_text']}.")
    for note in report["notes"]:
        console.print(note)
    save_json(options, report)


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
        "or of such a folder for each of several checkpoints; or of AffectGPT's results-SET/MODEL/CHECKPOINT*.npz",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets' published folders (data/README)")
    parser.add_argument(
        "--checkpoint", help="the one of several, or a part of its name, that was chosen without test clips"
    )
    add_lexicon_option(parser)
    parser.add_argument("--fold", type=int, default=1, help="test fold of DFEW and MAFW, 1 to 5 (%(default)s)")
    add_no_target_option(parser)
    add_json_option(parser, "every metric")
    parser.add_argument(
        "--sentiment", choices=("words", "chat"), default="words", help="by word map or chat model (%(default)s)"
    )
    add_chat_options(parser)
    return parser


if __name__ == "__main__":
    main()
