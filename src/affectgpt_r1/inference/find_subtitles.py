"""Find what is said in a file that nobody prepared: given as text, or in a subtitle file of its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.data.media.subtitles import SUBTITLE_SUFFIXES, read_subtitles
from affectgpt_r1.errors import DataError


def subtitles_of_files(
    files: Sequence[Path], subtitle: str | None, failures: dict[Path, str]
) -> dict[Path, str | None]:
    """Return what is said by file, None where only a track inside the file may say it.

    Args:
        files: Videos or sound.
        subtitle: What is said in all of them, see :func:`subtitle_given`; None looks for an ``.srt`` of each.
        failures: Receives the reason for each file whose ``.srt`` cannot be read; it is left out.
    """
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
    """Return what ``--subtitle`` says, as text or by the name of a subtitle file."""
    if subtitle.lower().endswith(SUBTITLE_SUFFIXES):
        return read_subtitles(Path(subtitle))
    if os.path.isfile(subtitle):
        raise DataError(f"{subtitle}: --subtitle takes what is said, or an .srt, .vtt or .ass file")
    return subtitle


def subtitle_beside(path: Path) -> str | None:
    """Return what the ``.srt`` of a file's name says, None without one."""
    beside = srt_beside(path)
    return read_subtitles(beside) if os.path.isfile(beside) else None


def srt_beside(path: Path) -> Path:
    """Return the ``.srt`` next to a file; cameras write its suffix in capitals, as the video's."""
    small, capital = path.with_suffix(".srt"), path.with_suffix(".SRT")
    return capital if os.path.isfile(capital) and not os.path.isfile(small) else small
