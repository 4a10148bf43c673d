"""Add the face crops that a data folder lacks: ``affectgpt-r1 crop-faces ROOT``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from affectgpt_r1.cli.command import PROGRAM, lazy, run_command
from affectgpt_r1.cli.options import add_workers_option
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.io.console import PlainConsole

clips_without_crops = lazy("data.prepare.published_crops:clips_without_crops")
crop_clips = lazy("data.prepare.published_crops:crop_clips")
workers_for = lazy("data.prepare.prepare_folder:workers_for")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 2 after bad input, 1 if a clip has no crops in the end."""
    if run_command(_parser(), crop_faces, arguments):
        raise SystemExit(1)


def crop_faces(options: argparse.Namespace) -> int:
    """Crop, print what was found, and return how many clips have no crops."""
    if options.frames < 1 or options.workers < 1:
        raise ConfigError("--frames and --workers are at least 1")
    console = PlainConsole(stderr=True, soft_wrap=True)
    say = PlainConsole(soft_wrap=True, highlight=False).print
    output = options.output or options.root
    names, number = clips_without_crops(options.root, options.names)
    say(f"{counted(number, 'clip has', 'clips have')} crops, {len(names)} do not")
    if options.dry_run:
        return 0
    frames = faces = without = 0
    workers = workers_for(names, options.workers)
    done = crop_clips(options.root, output, names, options.frames, options.faces, workers)
    for name, crops in track(done, "cropping", len(names), console=console, disable=not console.is_terminal):
        if isinstance(crops, str) or not crops.faces:
            say(f"{name}: {crops if isinstance(crops, str) else f'no face in {crops.frames} frames'}")
            without += 1
        if not isinstance(crops, str):
            frames, faces = frames + crops.frames, faces + crops.faces
    if names:
        say(f"{output}/openface_face: {len(names) - without} new, a face in {faces:,} of {frames:,} frames")
    return without


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} crop-faces",
        description="Write openface_face/<name>/<name>.npy (frames, 112, 112, 3), uint8 BGR, for each clip of a data "
        "folder that has a video and no such file. What is there is left as it is; the same command continues.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="data folder, with video/<name>.mp4")
    parser.add_argument("--names", metavar="FILE", help="table in ROOT whose clips are meant (default: every video)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where openface_face/ is made (default: ROOT)")
    parser.add_argument(
        "--faces", choices=("detect", "centre"), default="detect", help="by MTCNN, or each frame's middle (%(default)s)"
    )
    parser.add_argument("--frames", type=int, default=32, help="frames of a video that are searched (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only count")
    add_workers_option(parser)
    return parser


if __name__ == "__main__":
    main()
