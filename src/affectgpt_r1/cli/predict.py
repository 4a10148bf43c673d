"""Answer any video: ``affectgpt-r1 predict VIDEO... [--checkpoint C] [--subtitle TEXT|FILE.srt]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from affectgpt_r1.cli.command import run_command
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.inference.load_policy import add_policy_options, load_predictor
from affectgpt_r1.io.clean_text import json_line, message
from affectgpt_r1.io.files import clear_write_errors, line_writer


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: With code 2 after bad input, 1 if a file could not be answered.
    """
    if run_command(_parser(), predict, arguments):
        raise SystemExit(1)


def predict(options: argparse.Namespace) -> Mapping[Path, str]:
    """Answer every file, write a JSON line for each as soon as it is there, and list at the end what was not answered.

    Args:
        options: See ``--help``.

    Returns:
        Why each unanswered file was not.

    Raises:
        AffectGPTError: A path, the subtitles or the checkpoint are at fault.
    """
    from rich.progress import track

    from affectgpt_r1.data.media.media_search import clip_names, find_media
    from affectgpt_r1.inference.label_file import predict_files
    from affectgpt_r1.io.console import PlainConsole

    files = find_media(options.videos)
    names = clip_names(files)
    failures: dict[Path, str] = {}
    subtitles = _subtitles(files, options.subtitle, failures)
    predictor = load_predictor(options)
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
    return failures


def _json_line(row: Mapping[str, Any], output: Path | None) -> str:
    line = json_line(row)
    try:
        line.encode("utf-8" if output else sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name that is no UTF-8, or a terminal that shows none
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


def _subtitles(files: Sequence[Path], subtitle: str | None, failures: dict[Path, str]) -> dict[Path, str | None]:
    """What is said, by file; a file with a bad ``.srt`` beside it is not answered."""
    if subtitle is not None:
        return dict.fromkeys(files, subtitle_given(subtitle))
    subtitles: dict[Path, str | None] = {}
    for path in files:
        try:
            subtitles[path] = subtitle_beside(path)
        except DataError as error:
            failures[path] = str(error)
    return subtitles


def subtitle_given(subtitle: str) -> str:
    """What ``--subtitle`` says, as text or by the name of an ``.srt``.

    Raises:
        DataError: The ``.srt`` cannot be read, or another file is named.
    """
    from affectgpt_r1.data.media.subtitles import SUBTITLE_SUFFIXES, read_subtitles

    if subtitle.lower().endswith(SUBTITLE_SUFFIXES):
        return read_subtitles(Path(subtitle))
    if os.path.isfile(subtitle):
        raise DataError(f"{subtitle}: --subtitle takes what is said, or an .srt file")
    return subtitle


def subtitle_beside(path: Path) -> str | None:
    """What the ``.srt`` of a video's name says, None without one.

    Raises:
        DataError: It cannot be read.
    """
    from affectgpt_r1.data.media.subtitles import read_subtitles

    beside = _beside(path)
    return read_subtitles(beside) if os.path.isfile(beside) else None


def _beside(path: Path) -> Path:
    """The subtitle file beside a video; cameras write its suffix in capitals, as the video's."""
    small, capital = path.with_suffix(".srt"), path.with_suffix(".SRT")
    return capital if os.path.isfile(capital) and not os.path.isfile(small) else small


@contextmanager
def _output(options: argparse.Namespace, videos: Sequence[Path]) -> Iterator[Callable[[str], None]]:
    path: Path | None = options.output
    if path is None:
        yield _print_line
        return
    read = [*videos, *map(_beside, videos), options.checkpoint or "", options.subtitle or ""]
    if path.is_file() and any(os.path.isfile(other) and path.samefile(other) for other in read):
        raise ConfigError(f"--output {path}: is one of the files that are read; name another file")
    with line_writer(path) as write_line:
        yield write_line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 predict", description="Answer videos that nobody labelled; one JSON line for each."
    )
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="any file that FFmpeg reads, or a folder")
    parser.add_argument("--subtitle", help="what is said, as text or .srt; else VIDEO.srt, or a track inside")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write JSON lines here, not to the terminal")
    parser.add_argument("--lexicon", help="names the clusters; by default the one of training")
    parser.add_argument(
        "--faces",
        choices=("detect", "centre"),
        default="detect",
        help="crop faces, or each frame's middle",
    )
    parser.add_argument("--no-contributions", action="store_true", help="do not answer again without each modality")
    add_policy_options(parser)
    return parser


if __name__ == "__main__":
    main()
