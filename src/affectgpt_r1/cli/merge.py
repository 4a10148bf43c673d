"""Merge several systems' answers: ``affectgpt-r1 merge A.jsonl B.jsonl --rule vote --output merged.jsonl``."""

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
from affectgpt_r1.io.clean_text import printable

compare_systems = lazy("evaluation.score_comparison:compare_systems")
comparison_table = lazy("evaluation.score_comparison:comparison_table")
merge_files = lazy("evaluation.merge_files:merge_files")
read_rivals = lazy("evaluation.score_comparison:read_rivals")
score_files = lazy("evaluation.score_files:score_files")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_command(_parser(), merge, arguments)


def merge(options: argparse.Namespace) -> None:
    """Write the merged answers; with ``--targets`` print F1 of them and of each file, paired."""
    if options.json is not None and options.targets is None:
        raise ConfigError("--json holds the scores: give --targets FILE as well")
    chat = chat_from(options)
    lines = merge_files(
        options.files, options.output, rule=options.rule, most=options.most, lexicon=options.lexicon, chat=chat
    )
    for line in lines:
        print(printable(line))
    if options.targets is None:
        return
    scored = score_files(options.output, options.targets, lexicon=options.lexicon)
    systems = read_rivals(options.files, scored, options.output, chat)
    comparison = compare_systems(systems, scored.expected.labels, scored.lexicon, options.level)
    report_console().print(comparison_table(comparison))
    save_json(options, comparison)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 merge",
        description="Merge several systems' answers to the same clips, word by word, to a file that `score` reads.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="answers, as `affectgpt-r1 score` reads")
    parser.add_argument("--output", type=Path, required=True, help=".jsonl, .csv or a submission's NAME-openset.npz")
    parser.add_argument(
        "--rule",
        choices=("union", "vote", "cap"),
        default="vote",
        help="keep every word; those of more than half of the files, else of most; or as many as an answer has on "
        "average, those of most files first (%(default)s)",
    )
    parser.add_argument("--most", type=int, metavar="N", help="keep at most N words of a clip, by any rule")
    parser.add_argument("--targets", type=Path, help="score the merged answers and each file, paired")
    parser.add_argument("--level", type=int, choices=(1, 2), default=1, help="ring of the wheels (%(default)s)")
    add_lexicon_option(parser)
    add_json_option(parser, "the scores")
    add_chat_options(parser)
    return parser


if __name__ == "__main__":
    main()
