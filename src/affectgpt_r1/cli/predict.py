"""Label videos, or the clips of a data folder: ``affectgpt-r1 predict FILE|FOLDER... | --data ROOT``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.cli.options import report_console
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import message
from affectgpt_r1.io.console import PlainConsole
from affectgpt_r1.io.files import clear_write_errors, line_writer

find_media = lazy("data.media.media_search:find_media")
clip_names = lazy("data.media.media_search:clip_names")
load_predictor = lazy("inference.load_policy:load_predictor")
predict_files = lazy("inference.label_file:predict_files")
subtitles_of_files = lazy("inference.find_subtitles:subtitles_of_files")
subtitle_file = lazy("inference.find_subtitles:subtitle_file")
read_options = lazy("inference.read_file:ReadOptions")
formatter = lazy("inference.row_formats:formatter")
folder_task = lazy("inference.label_folder:folder_task")
unibench_tasks = lazy("inference.label_folder:unibench_tasks")
label_folders = lazy("inference.label_folder:label_folders")
compare_with_labels = lazy("inference.calibration:compare_with_labels")

SUBTITLES = "subtitle_chieng.csv:english"
OF_FILES = ("lexicon", "faces", "no_contributions", "person", "every", "audio_track", "require_person", "format")
OF_DATA = ("names", "sets", "calibrate")
NUM_SAMPLES = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 2 after bad input, which is one line, 1 if a file or clip could not be answered."""
    if run_command(_parser(), predict, arguments):
        raise SystemExit(1)


def predict(options: argparse.Namespace) -> int:
    """Label what the options name, and return how many files or clips could not be answered."""
    if (options.data is None) == (not options.videos):
        raise ConfigError("give files or folders of videos, or --data ROOT for a data folder")
    for name in OF_FILES if options.data is not None else OF_DATA:
        if getattr(options, name):
            scope = "of videos" if options.data is not None else "of --data ROOT"
            raise ConfigError(f"--{name.replace('_', '-')} is an option {scope}")
    return _predict_files(options) if options.data is None else _predict_data(options)


def _predict_data(options: argparse.Namespace) -> int:
    """Label the clips that ``--names`` lists, or the test clips of MER-UniBench's sets below ``--data``."""
    if options.output is None:
        raise ConfigError("--data needs --output: a file.jsonl with --names, a folder without")
    if options.names is None:
        tasks = unibench_tasks(options.data, options.sets, options.output)
    else:
        subtitle = SUBTITLES if options.subtitle is None else options.subtitle
        tasks = [folder_task(options.data, options.names, subtitle, options.output)]
    targets = {row.name: row.labels for row in tasks[0].rows if row.labels} if options.names else {}
    samples = options.samples if options.samples is not None else NUM_SAMPLES * options.calibrate
    if options.calibrate and (len(targets) < len(tasks[0].rows) or not samples):
        raise ConfigError("--calibrate needs --names FILE with labels of each clip (openset), and --samples above 0")
    predictor = load_predictor(options.checkpoint, options.set, device=options.device, num_samples=samples)
    if options.calibrate:
        predictor = replace(predictor, calibration=None)
    say = report_console().print
    num_unreadable: int = label_folders(
        predictor, tasks, batch_size=options.batch_size, num_workers=options.num_workers, say=say
    )
    if samples and len(targets) == len(tasks[0].rows):
        policy = predictor.provenance["policy"]
        compare_with_labels(tasks[0].output, targets, predictor.lexicon, policy, fit=options.calibrate, say=say)
    return num_unreadable


def _predict_files(options: argparse.Namespace) -> int:
    """Write a JSON line for each file as soon as it is answered, and list at the end what was not."""
    files = find_media(options.videos)
    names = clip_names(files)
    failures: dict[Path, str] = {}
    subtitles = subtitles_of_files(files, options.subtitle, failures)
    predictor = load_predictor(
        options.checkpoint,
        options.set,
        device=options.device,
        lexicon=options.lexicon,
        faces=options.faces or "detect",
        contributions=not options.no_contributions,
        num_samples=NUM_SAMPLES if options.samples is None else options.samples,
        options=read_options(person=options.person or "largest", audio_track=options.audio_track, every=options.every),
        require_person=options.require_person,
    )
    rows = predict_files(predictor, subtitles, failures)
    console = PlainConsole(stderr=True)
    answered: set[str] = set()
    format_row = formatter(_format(options), encoding="utf-8" if options.output else sys.stdout.encoding or "utf-8")
    bar = Progress(console=console, disable=not console.is_terminal)
    with _output(options, files) as write_line, bar:
        task = bar.add_task("predicting", total=len(subtitles))
        try:
            for row in rows:
                if row is None:  # the end of a file
                    bar.advance(task)
                    continue
                part = row["name"].removeprefix(Path(row["file"]).stem)  # of a person or a time
                write_line(format_row(row | {"name": names[row["file"]] + part}))
                answered.add(row["file"])
        finally:  # after an interruption, too
            if len(answered) < len(files):
                _list_failures(failures, len(answered), len(files))
    return len(failures)


def _format(options: argparse.Namespace) -> str:
    """Return the format that is asked for: by the output's suffix, or a table where a person reads."""
    if options.format is not None:
        return str(options.format)
    if options.output is not None:
        return "csv" if options.output.suffix.lower() == ".csv" else "jsonl"
    return "table" if sys.stdout.isatty() else "jsonl"


def _print_line(line: str) -> None:
    with clear_write_errors(Path("<stdout>"), "name a file by --output"):
        print(line, end="", flush=True)


def _list_failures(failures: Mapping[Path, str], answered: int, number: int) -> None:
    for path, reason in failures.items():
        print(message(reason if reason.startswith(str(path)) else f"{path}: {reason}"), file=sys.stderr)
    listed = (
        f"; {len(failures)} could not be and are listed above. A file that players do show can be repaired by "
        "`ffmpeg -i FILE NEW.mp4`"
    )
    print(f"{answered} of {number} files were answered{listed if failures else ''}", file=sys.stderr)


@contextmanager
def _output(options: argparse.Namespace, videos: Sequence[Path]) -> Iterator[Callable[[str], None]]:
    path: Path | None = options.output
    if path is None:
        yield _print_line
        return
    inputs = [*videos, *filter(None, map(subtitle_file, videos)), options.checkpoint or "", options.subtitle or ""]
    if path.is_file() and any(os.path.isfile(file) and path.samefile(file) for file in inputs):
        raise ConfigError(f"--output {path}: is one of the files that are read; name another file")
    with line_writer(path) as write_line:
        yield write_line


def _person(text: str) -> str:
    if text not in ("largest", "speaking", "each") and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text}: give largest, speaking, each or a number from 1")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give seconds, 0.1 or more")
    return seconds


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text}: give 0 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 predict",
        description="Label videos that nobody prepared, a row for each; or the clips of a data folder, read as "
        "in training, for `score` and `unibench`.",
    )
    parser.add_argument("videos", type=Path, nargs="*", metavar="VIDEO", help="any file that FFmpeg reads, or a folder")
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="data folder; without --names, that of MER-UniBench's nine sets"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON lines, or .csv (terminal); of MER-UniBench, a folder of JSON lines",
    )
    parser.add_argument(
        "--subtitle",
        "--subtitles",
        help="what is said, as text or .srt; else VIDEO.srt, .vtt, .ass or .en.srt, or a track inside. "
        "With --names: FILE:COLUMN in ROOT "
        f'({SUBTITLES}), "" for none',
    )
    parser.add_argument("--checkpoint", type=Path, help="best.ckpt of a run, or an exported folder (newest GRPO run)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="keys that differ here from training: paths.root=/data",
    )
    parser.add_argument(
        "--samples",
        type=_count,
        metavar="N",
        help=f"sampled answers that tell how sure it is: {NUM_SAMPLES} of videos, 0 (none) with --data",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is some)")
    videos = parser.add_argument_group("options of videos")
    videos.add_argument("--lexicon", help="names the clusters; by default the one of training")
    videos.add_argument("--faces", choices=("detect", "centre"), help="crop faces (default), or each frame's middle")
    videos.add_argument("--no-contributions", action="store_true", help="do not answer again without each modality")
    videos.add_argument(
        "--person",
        type=_person,
        metavar="N",
        help="whose face: largest (default), speaking, each, or a number from 1, the most prominent",
    )
    videos.add_argument("--every", type=_seconds, metavar="SECONDS", help="answer a long file part by part")
    videos.add_argument("--audio-track", metavar="N", help="number or language (default: the one that players take)")
    videos.add_argument("--require-person", action="store_true", help="no answer where neither face nor voice is found")
    videos.add_argument(
        "--format", choices=("jsonl", "csv", "table"), help="by default a table on a terminal, else JSON lines"
    )
    data = parser.add_argument_group("options of --data")
    data.add_argument("--names", metavar="FILE", help="CSV file in ROOT with the column name, such as test labels")
    data.add_argument(
        "--calibrate", action="store_true", help="fit the confidence to the labels of --names (validation clips)"
    )
    data.add_argument("--sets", nargs="+", help="of MER-UniBench, such as meld (default: those whose folder is there)")
    data.add_argument("--batch-size", type=int, default=32, help="clips that are answered at once (%(default)s)")
    data.add_argument("--num-workers", type=int, default=0, help="decoding processes (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
