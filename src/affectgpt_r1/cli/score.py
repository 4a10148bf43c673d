"""Score a file of predictions, or make it a submission: ``affectgpt-r1 score --predictions P --targets T``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.cli.options import (
    add_chat_options,
    add_json_option,
    add_lexicon_option,
    chat_from,
    report_console,
    save_json,
)
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.evaluation.score_tables import score_tables
from affectgpt_r1.io.clean_text import printable

find_leakage = lazy("evaluation.score_leakage:find_leakage")
score_files = lazy("evaluation.score_files:score_files")
write_submission_file = lazy("evaluation.score_files:write_submission_file")

_FORMATS = "CSV or JSONL with name and openset (labels) or reason (free text), or .npz with filenames and fileitems"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_command(_parser(), score, arguments)


def score(options: argparse.Namespace) -> None:
    """Print the tables, and write ``--json`` and ``--submission``."""
    if options.targets is None and (options.submission is None or options.json is not None or options.train):
        raise ConfigError("give --targets FILE to score, or --submission NAME-openset.npz alone to write a submission")
    chat = chat_from(options)
    if options.targets is not None:
        report, notes, _, expected, _ = score_files(
            options.predictions,
            options.targets,
            lexicon=options.lexicon,
            chat=chat,
            subset=options.subset,
            no_match=options.no_match,
        )
        if options.train:
            report["leakage"], lines = find_leakage(options.train, options.targets, expected.names)
            notes += lines
        console = report_console()
        for shown in (*score_tables(report, options.level), *notes):
            console.print(shown)
        save_json(options, report)
    if options.submission is not None:
        print(printable(write_submission_file(options.predictions, options.submission, options.lexicon, chat)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 score",
        description="Score a file of predictions with the emotion wheels, or write it as a challenge's submission.",
    )
    parser.add_argument("--predictions", type=Path, required=True, help=_FORMATS)
    parser.add_argument("--targets", type=Path, help="the same formats, the same names")
    parser.add_argument(
        "--submission", type=Path, metavar="NAME-openset.npz", help="write the predictions for a challenge"
    )
    add_lexicon_option(parser)
    parser.add_argument("--level", type=int, choices=(1, 2), default=1, help="ring of the wheels (%(default)s)")
    parser.add_argument("--subset", action="store_true", help="let targets without a prediction pass")
    parser.add_argument(
        "--no-match",
        choices=("zero", "nan"),
        default="zero",
        help="F1 where nothing matches: 0 as in 2026 or NaN as in 2025 (%(default)s)",
    )
    add_json_option(parser, "every score, interval and baseline")
    parser.add_argument(
        "--train", type=Path, nargs="+", default=[], metavar="CSV", help="report scored names that are in these files"
    )
    add_chat_options(parser)
    return parser


if __name__ == "__main__":
    main()
