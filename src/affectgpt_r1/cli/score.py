"""Score a file of predictions, or make it a submission: ``affectgpt-r1 score --predictions P --targets T``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.evaluation.score_tables import score_tables
from affectgpt_r1.io.clean_text import counted, printable
from affectgpt_r1.metrics.prediction_rows import SYNONYMS

clip_rows = lazy("evaluation.score_comparison:clip_rows")
compare_systems = lazy("evaluation.score_comparison:compare_systems")
comparison_table = lazy("evaluation.score_comparison:comparison_table")
explanation_table = lazy("evaluation.score_explanations:explanation_table")
find_leakage = lazy("evaluation.score_leakage:find_leakage")
masked_table = lazy("evaluation.score_masked:masked_table")
provenance = lazy("evaluation.score_files:provenance")
read_rivals = lazy("evaluation.score_comparison:read_rivals")
score_explanations = lazy("evaluation.score_explanations:score_explanations")
score_files = lazy("evaluation.score_files:score_files")
score_masked = lazy("evaluation.score_masked:score_masked")
score_slices = lazy("evaluation.score_slices:score_slices")
slice_tables = lazy("evaluation.score_slices:slice_tables")
write_per_clip = lazy("evaluation.score_comparison:write_per_clip")
write_score_page = lazy("report.score_page:write_score_page")
write_submission_file = lazy("evaluation.score_files:write_submission_file")

if TYPE_CHECKING:
    from rich.table import Table

    from affectgpt_r1.emotion.chat_client import Chat
    from affectgpt_r1.evaluation.score_files import ScoredFiles

_FORMATS = (
    ".csv, .tsv, .xlsx, .json or .jsonl with name and openset (labels) or reason (free text), "
    "or .npz with filenames and fileitems, or with name2reason"
)


_OF_LABELS = ("per_clip", "html", "groupings", "train", "against", "masked", "by")  # options that need scored labels


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_command(_parser(), score, arguments)


def score(options: argparse.Namespace) -> None:
    """Print the tables, and write ``--json``, ``--per-clip`` and ``--submission``."""
    if options.targets is None and (options.submission is None or _given(options, "json", *_OF_LABELS)):
        raise ConfigError("give --targets FILE to score, or --submission NAME-openset.npz alone to write a submission")
    chat = chat_from(options)
    if options.explanations:
        _score_explanations(options, chat)
    elif options.targets is not None:
        _score_labels(options, chat)
    if options.submission is not None:
        columns = columns_from(options.columns)
        for line in write_submission_file(options.predictions, options.submission, options.lexicon, chat, columns):
            print(printable(line))


def _score_labels(options: argparse.Namespace, chat: Chat | None) -> None:
    scored = score_files(
        options.predictions,
        options.targets,
        lexicon=options.lexicon,
        chat=chat,
        subset=options.subset,
        no_match=options.no_match,
        no_target=options.no_target,
        columns=columns_from(options.columns),
        target_columns=columns_from(options.target_columns),
        groupings=options.groupings,
    )
    report, notes = scored.report, scored.notes
    tables = [*score_tables(report, options.level), *_comparisons(options, chat, scored)]
    if options.train:
        report["leakage"], lines = find_leakage(options.train, options.targets, scored.expected.names)
        notes += lines
    console = report_console()
    for shown in (*tables, *notes):
        console.print(shown)
    if options.per_clip is not None:
        write_per_clip(options.per_clip, scored, options.level)
    if options.html is not None:
        title = f"{options.predictions.name} against {options.targets.name}"
        rows = clip_rows(scored, options.level)
        write_score_page(options.html, report, rows, scored.lexicon, options.level, title)
    save_json(options, report | provenance(scored.lexicon) if options.json else report)
    _check_strict(options, notes)


def _comparisons(options: argparse.Namespace, chat: Chat | None, scored: ScoredFiles) -> Iterator[Table]:
    """Add to the report what is compared on the same clips, and yield its tables."""
    report, level = scored.report, options.level
    if options.against:
        systems = read_rivals(options.against, scored, options.predictions, chat)
        report["against"] = compare_systems(systems, scored.expected.labels, scored.lexicon, level)
        yield comparison_table(report["against"])
    columns = columns_from(options.target_columns)
    report["slices"] = score_slices(scored, options.targets, options.by, level, columns)
    yield from slice_tables(report["slices"])
    if options.masked:
        report["masked"] = score_masked(masked_from(options.masked), scored, chat, level)
        yield masked_table(report["masked"])


def _score_explanations(options: argparse.Namespace, chat: Chat | None) -> None:
    if options.targets is None or _given(options, "submission", *_OF_LABELS):
        raise ConfigError("--explanations takes --predictions and --targets, and of the other outputs --json alone")
    report = score_explanations(
        options.predictions,
        options.targets,
        lexicon=options.lexicon,
        chat=chat,
        subset=options.subset,
        columns=columns_from(options.columns),
        target_columns=columns_from(options.target_columns),
    )
    console = report_console()
    for shown in (explanation_table(report), *report["notes"]):
        console.print(shown)
    save_json(options, report)
    _check_strict(options, report["notes"])


def _given(options: argparse.Namespace, *names: str) -> bool:
    return any(getattr(options, name) for name in names)


def _check_strict(options: argparse.Namespace, notes: Sequence[str]) -> None:
    if options.strict and notes:
        lines = counted(len(notes), "line above says", "lines above say")
        raise DataError(f"--strict: {lines} what may be wrong, the first: {notes[0]}")


def masked_from(given: Sequence[str]) -> dict[str, Path]:
    """Parse ``audio=FILE``.

    Raises:
        ConfigError: A part is not a modality and a file, or a modality is given twice.
    """
    masked: dict[str, Path] = {}
    for part in given:
        modality, _, path = part.partition("=")
        if not modality or not path or modality in masked:
            raise ConfigError(f"--masked takes MODALITY=FILE once for each, as in audio=no_audio.csv, not {part!r}")
        masked[modality] = Path(path)
    return masked


def columns_from(text: str | None) -> dict[str, str]:
    """Parse ``name=ID,openset=WORDS``.

    Raises:
        ConfigError: A part is not a role and a column.
    """
    columns = {}
    for part in text.split(",") if text else []:
        role, _, column = (piece.strip() for piece in part.partition("="))
        if role not in SYNONYMS or not column or role in columns:
            raise ConfigError(
                f"--columns takes {', '.join(SYNONYMS)} once each, as in name=ID,openset=WORDS, not {part!r}"
            )
        columns[role] = column
    return columns


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 score",
        description="Score a file of predictions with the emotion wheels, or write it as a challenge's submission.",
    )
    parser.add_argument("--predictions", type=Path, required=True, help=_FORMATS)
    parser.add_argument("--targets", type=Path, help="the same formats, the same names")
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="what the columns of --predictions are called, as in name=ID,openset=WORDS; usual names are known",
    )
    parser.add_argument("--target-columns", metavar="ROLE=COLUMN,...", help="the same for --targets")
    parser.add_argument(
        "--submission", type=Path, metavar="NAME-openset.npz", help="write the predictions for a challenge"
    )
    add_lexicon_option(parser)
    parser.add_argument("--level", type=int, choices=(1, 2), default=1, help="ring of the wheels (%(default)s)")
    parser.add_argument(
        "--strict", action="store_true", help="fail where anything below the tables says what may be wrong"
    )
    parser.add_argument("--subset", action="store_true", help="let targets without a prediction pass")
    parser.add_argument(
        "--no-match",
        choices=("zero", "nan"),
        default="zero",
        help="F1 where nothing matches: 0 as in 2026 or NaN as in 2025 (%(default)s)",
    )
    add_no_target_option(parser)
    parser.add_argument(
        "--groupings",
        type=Path,
        metavar="FOLDER|ZIP",
        help="MER2024's cached groups of synonyms, NAME.npy for each clip",
    )
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="compare with other systems' predictions of the same clips (paired bootstrap, mean ranks)",
    )
    parser.add_argument(
        "--masked",
        nargs="+",
        default=[],
        metavar="MODALITY=FILE",
        help="answers to the same clips without a modality (audio, video, text): what changes, what is still named",
    )
    parser.add_argument("--per-clip", type=Path, metavar="FILE", help="write each clip's scores, .csv or .jsonl")
    parser.add_argument(
        "--explanations",
        action="store_true",
        help="compare the free text with that of --targets: EMER's ratings by --chat-model, and offline scores",
    )
    parser.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="score slices of the clips by columns of --targets, or by the target's cluster or length; columns "
        "cluster, length, language and modality are taken unasked",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="draw the wheels and the worst clips as one page")
    add_json_option(parser, "every score, interval and baseline")
    parser.add_argument(
        "--train", type=Path, nargs="+", default=[], metavar="CSV", help="report scored names that are in these files"
    )
    add_chat_options(parser)
    return parser


if __name__ == "__main__":
    main()
