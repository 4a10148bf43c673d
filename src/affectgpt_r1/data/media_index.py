"""Index every clip's media files before a run, by one ``stat`` each: a network disk may hold a hundred thousand."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar

from affectgpt_r1.data.layouts.manifest import ManifestRow, listing
from affectgpt_r1.data.layouts.mer import AUDIO_PLACES, FACE_PLACES, VIDEO_PLACES, name_forms
from affectgpt_r1.errors import DataError, OnFault, refuse
from affectgpt_r1.types import Modality, Visual

_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".wav", ".npy")  # that label files of other projects give with names
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

_TIMED, _SLOW_SECONDS = 64, 3e-4  # items that are asked about first, and what is slow for one
_THREADS, _AT_ONCE = 32, 256
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class MediaState(NamedTuple):
    """A clip's media files, those of the video modality first."""

    places: tuple[str, ...]  # below the data folder, with {} for the clip's name
    sizes: tuple[int, ...]  # in bytes
    identity: str = ""  # differs where a file was replaced or written to, whatever the new one's date

    def files(self, root: Path, name: str) -> list[Path]:
        """Return the files of the clip ``name``."""
        return [root / place.format(name) for place in self.places]


def index_media(
    rows: Iterable[ManifestRow],
    root: Path,
    modalities: Sequence[Modality],
    visual: Visual,
    on_fault: OnFault = refuse,
) -> dict[str, MediaState]:
    """Find the files of every clip's ``modalities`` without opening them, by clip name.

    Where ``on_fault`` returns, clips that lack a file are left out.

    Raises:
        DataError: A clip lacks a file; names rows and files.
    """
    wanted = [_present(root, places) for places in _wanted(modalities, visual)]
    states: dict[str, MediaState] = {}
    missing: list[tuple[ManifestRow, str]] = []

    folder, kinds = str(root), range(len(wanted))

    def find(row: ManifestRow) -> list[tuple[str, os.stat_result] | None]:
        return [_first(folder, row.name, places) for places in wanted]

    # Short: while one thread computes, those whose answers have come wait for the interpreter.
    for row, files in in_threads(find, rows):
        if None in files:
            missing += [(row, wanted[kind][0].format(row.name)) for kind in kinds if files[kind] is None]
            continue
        found = [file for file in files if file is not None]
        sizes = tuple([status.st_size for _, status in found])
        states[row.name] = MediaState(tuple([place for place, _ in found]), sizes, _identity(found))
    if missing:
        listed = listing(f"row {row.row} ({row.name}): {file}" for row, file in missing)
        on_fault(
            DataError(
                f"{len(missing)} media files are missing under {root}: {listed}; {_misspelt(missing)}"
                "fetch them, take the rows out, or switch the modality off (data.modalities)",
                items=[file for _, file in missing],
            )
        )
    return states


def in_threads(ask: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[tuple[Item, Answer]]:
    """Ask a file system about many items, in order; by many threads at once where it takes long to answer."""
    listed = list(items)
    started = time.perf_counter()
    for item in listed[:_TIMED]:
        yield item, ask(item)
    is_slow = time.perf_counter() - started > _SLOW_SECONDS * _TIMED
    parts = [listed[start : start + _AT_ONCE] for start in range(_TIMED, len(listed), _AT_ONCE)]
    # On a fast disk threads would mostly wait for each other.
    with ThreadPoolExecutor(_THREADS if is_slow else 1) as pool:
        for part, answers in zip(parts, pool.map(lambda part: [ask(item) for item in part], parts), strict=True):
            yield from zip(part, answers, strict=True)


def _misspelt(missing: Iterable[tuple[ManifestRow, str]]) -> str:
    """Return the remedies for names among those of missing files that are not the stem of a file name, or ``""``."""
    blanks = suffix = ""
    for row, _ in missing:
        if row.name != row.name.strip():
            blanks = blanks or f"take the blanks around names such as row {row.row}'s {row.name!r} off; "
        elif PurePath(row.name).suffix.lower() in _SUFFIXES:
            suffix = suffix or f"take the suffix off names such as row {row.row}'s {row.name!r}; "
    return blanks + suffix


def _wanted(modalities: Sequence[Modality], visual: Visual) -> list[tuple[str, ...]]:
    """Return where each file of a clip may be."""
    wanted: list[tuple[str, ...]] = []
    if "video" in modalities:
        wanted += [FACE_PLACES] if visual in ("face", "both") else []
        wanted += [VIDEO_PLACES] if visual != "face" else []
    if "audio" in modalities:
        wanted.append((*AUDIO_PLACES, *VIDEO_PLACES))
    return wanted


def _present(root: Path, places: Sequence[str]) -> list[str]:
    """Return the places whose folder exists, the first of all where none does."""
    return [place for place in places if (root / place.partition("/")[0]).is_dir()] or [places[0]]


def _first(folder: str, name: str, places: Sequence[str]) -> tuple[str, os.stat_result] | None:
    forms = name_forms(name)
    for place in places:
        for form in forms:
            path = place.format(form)
            try:
                status = os.stat(f"{folder}/{path}")
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                continue
            if form == name:
                return place, status
            return path.replace("{", "{{").replace("}", "}}"), status  # str.format leaves it as it is
    return None


def _identity(found: Sequence[tuple[str, os.stat_result]]) -> str:
    """Hash size, time of change and inode: a copy that keeps the older file's date has another inode."""
    # A hash of the content would tell more, but would read every file at each start.
    if not found:
        return ""
    seen = [(status.st_size, status.st_mtime_ns, status.st_ino) for _, status in found]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
