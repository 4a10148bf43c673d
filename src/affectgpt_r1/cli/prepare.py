"""Make a data folder of videos and tables: ``affectgpt-r1 prepare DATA [--output FOLDER]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from affectgpt_r1.cli.command import PROGRAM, lazy, run_command
from affectgpt_r1.cli.options import add_workers_option
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.console import PlainConsole

if TYPE_CHECKING:
    from affectgpt_r1.data.prepare.prepare_folder import Plan, Prepared, Wishes

plan = lazy("data.prepare.prepare_folder:plan")
describe = lazy("data.prepare.prepare_folder:describe")
prepare_folder = lazy("data.prepare.prepare_folder:prepare")
outcome = lazy("data.prepare.prepare_folder:outcome")
workers_for = lazy("data.prepare.prepare_folder:workers_for")
write_configs = lazy("config.own_data:write_configs")
commands = lazy("config.own_data:commands")

ROLES = ("name", "openset", "reason", "subtitle", "speaker", "split")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_command(_parser(), prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Look, or prepare, and print what was found."""
    say = PlainConsole(soft_wrap=True, highlight=False).print
    found: Plan = plan(_wishes(options))
    for line in describe(found):
        say(line)
    if options.output is None:
        say(f"Nothing was written. To prepare them: {PROGRAM} prepare {options.data} --output FOLDER")
        return
    done = _prepare_with_progress(found, workers_for(found.to_do, options.workers))
    written = [*done.written, *(str(path.relative_to(options.output)) for path in write_configs(options.output, done))]
    say(f"{options.output}: {len(found.to_do)} of {len(found.clips)} clips made, {_files(written)}")
    for line in outcome(done):
        say(line)
    if done.splits["train"]:
        say("Then, one after the other:")
        for line in commands(options.output, done):
            say(f"  {line}")
    else:
        say(f"No labels to train on: `{PROGRAM} predict --data {options.output} --names unlabelled.csv` answers them")


def _prepare_with_progress(found: Plan, workers: int) -> Prepared:
    console = PlainConsole(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("preparing", total=len(found.to_do))
        try:
            done: Prepared = prepare_folder(found, workers, lambda state: progress.advance(bar))
        except KeyboardInterrupt:
            console.print("What is finished is kept: the same command again continues.")
            raise
    return done


def _files(written: Sequence[str]) -> str:
    return f"written: {', '.join(written)}" if written else "no table has changed"


def _wishes(options: argparse.Namespace) -> Wishes:
    from affectgpt_r1.data.prepare.extract import Extraction
    from affectgpt_r1.data.prepare.filter_labels import Filters
    from affectgpt_r1.data.prepare.prepare_folder import Wishes

    columns = dict(pair.partition("=")[::2] for pair in options.columns)
    if unknown := [role for role in columns if role not in ROLES]:
        raise ConfigError(f"--columns {unknown[0]}=...: give {', '.join(f'{role}=COLUMN' for role in ROLES)}")
    modalities = tuple(options.modalities.split(",")) if options.modalities else ()
    if unknown := [name for name in modalities if name not in ("video", "audio", "text")]:
        raise ConfigError(f"--modalities {unknown[0]}: give some of video,audio,text, with commas")
    for name in ("val_fraction", "test_fraction"):
        if not 0 <= getattr(options, name) < 0.5:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: give a number from 0 to 0.5")
    for name, most in (("agree", 1.0), ("min_faces", 1.0), ("trim", 0.49)):
        if not 0 <= getattr(options, name) <= most:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: give a number from 0 to {most}")
    if options.frames < 1 or options.workers < 1:
        raise ConfigError("--frames and --workers are at least 1")
    return Wishes(
        data=options.data,
        output=options.output,
        tables=tuple(options.labels),
        columns=columns,
        label_by_folder=options.label_by_folder,
        modalities=modalities,
        val_fraction=options.val_fraction,
        test_fraction=options.test_fraction,
        extraction=Extraction(options.faces, options.frames, options.copy),
        filters=Filters(options.agree, options.min_faces, options.trim),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} prepare",
        description="Make a data folder in the published layout of videos in any folders and of tables of labels; and "
        "configurations to train on it. Without --output it only says what it finds.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with videos, and tables of their labels")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder to make, or to bring up to date")
    parser.add_argument(
        "--labels", type=Path, nargs="+", default=[], metavar="FILE",
        help="tables (CSV, TSV, Excel, JSON, JSON lines); by default all below DATA that name its videos",
    )  # fmt: skip
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="ROLE=COLUMN",
        help=f"what columns are called; roles are {', '.join(ROLES)} (default: by their usual names)",
    )  # fmt: skip
    parser.add_argument("--label-by-folder", action="store_true", help="a video's folder is its label, as happy/1.mp4")
    parser.add_argument(
        "--faces", choices=("detect", "centre", "none"), default="detect",
        help="crop faces by MTCNN, or each frame's middle, or train on full frames (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, default=32, help="frames of a video that are searched (%(default)s)")
    parser.add_argument("--modalities", help="such as video,text; by default those that half of the clips have")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="of the clips, to validate (%(default)s)")
    parser.add_argument("--test-fraction", type=float, default=0.1, help="of the clips, to test (%(default)s)")
    filters = parser.add_argument_group("filters of machine-made labels; clips to evaluate with are not filtered")
    filters.add_argument(
        "--agree", type=float, default=0.0, metavar="F1",
        help="--labels are several labellers' files: keep clips on which the first agrees with the others by this F1, "
        "and with half of them in sentiment",
    )  # fmt: skip
    filters.add_argument("--min-faces", type=float, default=0.0, metavar="FRACTION", help="of the frames, with a face")
    filters.add_argument(
        "--trim", type=float, default=0.0, metavar="FRACTION", help="of the shortest and of the longest reasons"
    )
    parser.add_argument("--copy", action="store_true", help="copy the videos instead of linking them")
    add_workers_option(parser)
    return parser


if __name__ == "__main__":
    main()
