"""Score anyone's predictions: ``affectgpt-r1 score --predictions P --targets T``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from affectgpt_r1.cli.command import run_command
from affectgpt_r1.cli.scoring import add_chat_options, chat_from, report_console
from affectgpt_r1.io.plain_json import write_json

_FORMATS = "CSV or JSONL with name and openset (labels) or reason (free text), or .npz with filenames and fileitems"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: With code 2 after bad input, which is named in one line.
    """
    run_command(_parser(), score, arguments)


def score(options: argparse.Namespace) -> dict[str, Any]:
    """Read both files, print the tables and write ``--json``.

    Args:
        options: See ``--help``.

    Returns:
        See :func:`~affectgpt_r1.metrics.corpus_report.corpus_report`.

    Raises:
        AffectGPTError: If a file, the lexicon or the pairing of names is at fault.
    """
    from affectgpt_r1.emotion.chat_extraction import text_extractor
    from affectgpt_r1.emotion.lexicon import load_lexicon
    from affectgpt_r1.evaluation.score_tables import score_tables
    from affectgpt_r1.metrics.corpus_report import corpus_report
    from affectgpt_r1.metrics.prediction_files import align, read_named_sets

    lexicon = load_lexicon(options.lexicon)
    extract = text_extractor(lexicon, chat_from(options))
    predictions, targets = align(
        *(read_named_sets(path, extract) for path in (options.predictions, options.targets)), subset=options.subset
    )
    report = corpus_report(predictions.labels, targets.labels, lexicon, options.no_match)
    negated = {name: list(spans) for name, spans in zip(predictions.names, predictions.negated, strict=True) if spans}
    report["negated"] = negated
    console = report_console()
    for table in score_tables(report, options.level):
        console.print(table)
    if not any(word in lexicon for words in targets.labels for word in words):
        console.print(
            f"Nothing counts: no label of {options.targets} stands in the {lexicon.name} lexicon, which is English."
        )
    if options.train:
        report["leakage"] = _leakage(options.train, options.targets, targets.names)
        for line in _leakage_lines(report["leakage"], len(targets.names)):
            console.print(line)
    if negated:
        console.print(f"{sum(map(len, negated.values()))} negated spans were skipped, as in {next(iter(negated))}.")
    if options.json is not None:
        write_json(options.json, report, "choose another --json")
    return report


def _leakage(train: Sequence[Path], targets: Path, names: Sequence[str]) -> dict[str, Any]:
    """Scored names that stand in training files, and what is known of these files."""
    from affectgpt_r1.data.leakage import known_overlap, leaked_names

    known = known_overlap(path.name for path in (*train, targets))
    return {"names": {str(path): leaked_names(path, names) for path in train}, "known": known}


def _leakage_lines(leakage: dict[str, Any], num_scored: int) -> list[str]:
    lines = [f"Beware: {leakage['known']}."] if leakage["known"] else []
    for file, names in leakage["names"].items():
        such = f", such as {names[0]}: the scores are not of unseen clips" if names else ""
        lines.append(f"Leakage: {len(names)} of {num_scored} scored names stand in {file}{such}.")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 score", description="Score a file of predictions with the emotion wheels."
    )
    parser.add_argument("--predictions", type=Path, required=True, help=_FORMATS)
    parser.add_argument("--targets", type=Path, required=True, help="the same formats, the same names")
    parser.add_argument("--lexicon", default="bundled", help="bundled, mer2025, mer2026 or a folder (%(default)s)")
    parser.add_argument("--level", type=int, choices=(1, 2), default=1, help="ring of the wheels (%(default)s)")
    parser.add_argument("--subset", action="store_true", help="let targets without a prediction pass")
    parser.add_argument(
        "--no-match",
        choices=("zero", "nan"),
        default="zero",
        help="F where nothing matches: 0 as in 2026 or NaN as in 2025 (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every score, interval and baseline")
    parser.add_argument(
        "--train", type=Path, nargs="+", default=[], metavar="CSV", help="report scored names that stand in these files"
    )
    add_chat_options(parser)
    return parser


if __name__ == "__main__":
    main()
