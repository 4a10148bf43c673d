"""One look at each clip's media files before a run: a hundred thousand clips on a network disk allow no second one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.data.layout import AUDIO_PLACES, FACE_PLACES, VIDEO_PLACES
from affectgpt_r1.data.manifest import ManifestRow, listing
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import Modality, Visual

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What the system answers where no file can be reached."""


class MediaState(NamedTuple):
    """A clip's media files, those of the video modality first."""

    places: tuple[str, ...]  # below the data folder, with {} for the clip's name
    sizes: tuple[int, ...]  # in bytes
    newest: int  # when the last of them changed, in nanoseconds since 1970

    def files(self, root: Path, name: str) -> list[Path]:
        """The files of the clip ``name``."""
        return [root / place.format(name) for place in self.places]


def look_at_media(
    rows: Iterable[ManifestRow], root: Path, modalities: Sequence[Modality], visual: Visual
) -> dict[str, MediaState]:
    """Find every clip's media files. Nothing is opened, and a file is asked for once.

    Args:
        rows: The clips.
        root: Data folder.
        modalities: Modalities that are on; only their files are asked for.
        visual: Whether the video modality reads face crops or frames.

    Returns:
        What was found, by clip name.

    Raises:
        DataError: Some clip lacks a file; rows and files are named.
    """
    wanted = [_present(root, places) for places in _wanted(modalities, visual)]
    states: dict[str, MediaState] = {}
    missing: list[str] = []
    for row in rows:
        found = []
        for places in wanted:
            if file := _first(root, row.name, places):
                found.append(file)
            else:
                missing.append(f"row {row.row} ({row.name}): {places[0].format(row.name)}")
        places_found, statuses = zip(*found, strict=True) if found else ((), ())
        sizes = tuple(status.st_size for status in statuses)
        states[row.name] = MediaState(places_found, sizes, max((one.st_mtime_ns for one in statuses), default=0))
    if missing:
        raise DataError(
            f"{len(missing)} media files are missing under {root}: {listing(missing)}; "
            "fetch them, take the rows out, or switch the modality off (data.modalities)"
        )
    return states


def _wanted(modalities: Sequence[Modality], visual: Visual) -> list[tuple[str, ...]]:
    """For each file of a clip, where it may lie."""
    wanted: list[tuple[str, ...]] = []
    if "video" in modalities:
        wanted += [FACE_PLACES] if visual in ("face", "both") else []
        wanted += [VIDEO_PLACES] if visual != "face" else []
    if "audio" in modalities:
        wanted.append((*AUDIO_PLACES, *VIDEO_PLACES))
    return wanted


def _present(root: Path, places: Sequence[str]) -> list[str]:
    """The places whose folder is there; the first of all where none is."""
    return [place for place in places if (root / place.partition("/")[0]).is_dir()] or [places[0]]


def _first(root: Path, name: str, places: Sequence[str]) -> tuple[str, os.stat_result] | None:
    for place in places:
        try:
            return place, os.stat(f"{root}/{place.format(name)}")
        except OSError as error:
            if error.errno not in ABSENT:
                raise
    return None
