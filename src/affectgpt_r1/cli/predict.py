"""Label videos, or the clips of a data folder: ``affectgpt-r1 predict FILE|FOLDER... | --data ROOT``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import track

from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.cli.options import report_console
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import json_line, message
from affectgpt_r1.io.console import PlainConsole
from affectgpt_r1.io.files import clear_write_errors, line_writer

find_media = lazy("data.media.media_search:find_media")
clip_names = lazy("data.media.media_search:clip_names")
load_predictor = lazy("inference.load_policy:load_predictor")
predict_files = lazy("inference.label_file:predict_files")
subtitles_of_files = lazy("inference.find_subtitles:subtitles_of_files")
srt_beside = lazy("inference.find_subtitles:srt_beside")
folder_task = lazy("inference.label_folder:folder_task")
unibench_tasks = lazy("inference.label_folder:unibench_tasks")
label_folders = lazy("inference.label_folder:label_folders")

SUBTITLES = "subtitle_chieng.csv:english"
OF_FILES = ("lexicon", "faces", "no_contributions")
OF_DATA = ("names", "sets")


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
    predictor = load_predictor(options.checkpoint, options.set, device=options.device)
    num_unreadable: int = label_folders(
        predictor, tasks, batch_size=options.batch_size, num_workers=options.num_workers, say=report_console().print
    )
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
    )
    rows = predict_files(predictor, subtitles, failures)
    console, answered = PlainConsole(stderr=True), 0
    with _output(options, files) as write_line:
        try:
            for row in track(rows, "predicting", len(subtitles), console=console, disable=not console.is_terminal):
                if row is not None:
                    write_line(_json_line(row | {"name": names[row["file"]]}, options.output))
                    answered += 1
        finally:  # after an interruption, too
            if answered < len(files):
                _list_failures(failures, answered, len(files))
    return len(failures)


def _json_line(row: Mapping[str, Any], output: Path | None) -> str:
    line = json_line(row)
    try:
        line.encode("utf-8" if output else sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal that shows none
        return json.dumps(row) + "\n"
    return line


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
    inputs = [*videos, *map(srt_beside, videos), options.checkpoint or "", options.subtitle or ""]
    if path.is_file() and any(os.path.isfile(file) and path.samefile(file) for file in inputs):
        raise ConfigError(f"--output {path}: is one of the files that are read; name another file")
    with line_writer(path) as write_line:
        yield write_line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 predict",
        description="Label videos that nobody prepared, one JSON line for each; or the clips of a data folder, read as "
        "in training, for `score` and `unibench`.",
    )
    parser.add_argument("videos", type=Path, nargs="*", metavar="VIDEO", help="any file that FFmpeg reads, or a folder")
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="data folder; without --names, that of MER-UniBench's nine sets"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON lines (terminal); of MER-UniBench, a folder of such files"
    )
    parser.add_argument(
        "--subtitle",
        "--subtitles",
        help=f"what is said, as text or .srt; else VIDEO.srt, or a track inside. With --names: FILE:COLUMN in ROOT "
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
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is some)")
    videos = parser.add_argument_group("options of videos")
    videos.add_argument("--lexicon", help="names the clusters; by default the one of training")
    videos.add_argument("--faces", choices=("detect", "centre"), help="crop faces (default), or each frame's middle")
    videos.add_argument("--no-contributions", action="store_true", help="do not answer again without each modality")
    data = parser.add_argument_group("options of --data")
    data.add_argument("--names", metavar="FILE", help="CSV file in ROOT with the column name, such as test labels")
    data.add_argument("--sets", nargs="+", help="of MER-UniBench, such as meld (default: those whose folder is there)")
    data.add_argument("--batch-size", type=int, default=32, help="clips that are answered at once (%(default)s)")
    data.add_argument("--num-workers", type=int, default=0, help="decoding processes (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
