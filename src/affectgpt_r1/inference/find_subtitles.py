"""Find what is said in a file that nobody prepared: given as text, or in a subtitle file of its name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.data.media.subtitles import SUBTITLE_SUFFIXES, read_cues
from affectgpt_r1.errors import DataError
from affectgpt_r1.inference.read_file import Said

_LANGUAGE = re.compile(r"(?:\.([A-Za-z]{2,3}(?:[-_][A-Za-z]{2,4})?))?")  # as in clip.en.srt, clip.zh-Hans.srt


def subtitles_of_files(
    files: Sequence[Path], subtitle: str | None, failures: dict[Path, str]
) -> dict[Path, Said | None]:
    """Return what is said by file, None where only a track inside the file may say it.

    Args:
        files: Videos or sound.
        subtitle: What is said in all of them, see :func:`subtitle_given`; None looks for a subtitle file of each.
        failures: Receives the reason for each file whose subtitle file cannot be read; it is left out.
    """
    if subtitle is not None:
        return dict.fromkeys(files, subtitle_given(subtitle))
    subtitles: dict[Path, Said | None] = {}
    names: dict[Path, list[str]] = {}  # a folder of thousands is listed once
    for path in files:
        try:
            subtitles[path] = subtitle_beside(path, names.setdefault(path.parent, _listed(path.parent)))
        except DataError as error:
            failures[path] = str(error)
    return subtitles


def subtitle_given(subtitle: str) -> Said:
    """Return what ``--subtitle`` says, as text or by the name of a subtitle file."""
    if subtitle.lower().endswith(SUBTITLE_SUFFIXES):
        return Said(read_cues(Path(subtitle)), Path(subtitle).name)
    if os.path.isfile(subtitle):
        raise DataError(f"{subtitle}: --subtitle takes what is said, or an .srt, .vtt or .ass file")
    return Said.of_text(subtitle)


def subtitle_beside(path: Path, names: Sequence[str] | None = None) -> Said | None:
    """Return what :func:`subtitle_file` says, None without one."""
    beside = subtitle_file(path, names)
    return None if beside is None else Said(read_cues(beside), beside.name)


def subtitle_file(path: Path, names: Sequence[str] | None = None) -> Path | None:
    """Return the subtitle file next to a file, by players' rule: ``clip.srt``, else ``clip.en.srt``, else another's.

    Suffixes come in the order of :data:`SUBTITLE_SUFFIXES`; cameras write them in capitals, as the video's.

    Args:
        path: The video or sound.
        names: What its folder holds; None looks there.
    """
    found = []
    for name in _listed(path.parent) if names is None else names:
        stem, suffix = os.path.splitext(name)
        if not name.startswith(path.stem) or suffix.lower() not in SUBTITLE_SUFFIXES:
            continue
        match = _LANGUAGE.fullmatch(stem[len(path.stem) :])
        if match is None or not os.path.isfile(path.parent / name):
            continue
        language = match[1] or ""
        order = (bool(language), not language.lower().startswith("en"), SUBTITLE_SUFFIXES.index(suffix.lower()), name)
        found.append((order, path.parent / name))
    return min(found)[1] if found else None


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # the reader of the file says why
