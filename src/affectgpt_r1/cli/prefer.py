"""Score preferences between two descriptions: ``affectgpt-r1 prefer --predictions P --targets T``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.cli.options import add_json_option, report_console, save_json

preference_tables = lazy("evaluation.score_preferences:preference_tables")
score_preferences = lazy("evaluation.score_preferences:score_preferences")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_command(_parser(), prefer, arguments)


def prefer(options: argparse.Namespace) -> None:
    """Print the tables and write ``--json``."""
    report = score_preferences(options.predictions, options.targets, options.swapped)
    console = report_console()
    for shown in preference_tables(report):
        console.print(shown)
    save_json(options, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 prefer",
        description="Score preferences between two descriptions of a clip: WAF, accuracy, consistency, ranking.",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        help="name and preference (a1, a2 or same); with system1 and system2, whose descriptions they are, too",
    )
    parser.add_argument("--targets", type=Path, help="the right answers, in the same columns")
    parser.add_argument("--swapped", type=Path, help="answers to the same pairs with the two descriptions swapped")
    add_json_option(parser, "every score")
    return parser


if __name__ == "__main__":
    main()
