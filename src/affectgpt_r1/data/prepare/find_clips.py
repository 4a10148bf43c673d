"""Find the clips below a folder as people keep them: nested, under any name, sound in a file of its own or not."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from affectgpt_r1.data.layouts.manifest import LONGEST_NAME
from affectgpt_r1.data.media.media_search import SOUND_SUFFIXES, find_media
from affectgpt_r1.errors import DataError
from affectgpt_r1.metrics.clip_names import plain_name

_SOUND = frozenset(f".{suffix}" for suffix in SOUND_SUFFIXES.split())
T = TypeVar("T")

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\]")


class Clip(NamedTuple):
    """A clip's files, and its name in the prepared folder."""

    name: str  # unique, a file name without suffix in Unicode's composed form (NFC)
    place: str  # below the folder that was searched, without suffix
    video: Path | None
    sound: Path | None  # a file of its own; None where the video has it, if any


def find_clips(data: Path, output: Path | None = None) -> list[Clip]:
    """Return the clips below ``data`` by place; what is below ``output`` are not clips but made of them.

    A sound file is a video's where it has its place, or the name of one video only: ``audio/`` next to ``video/``.

    Raises:
        DataError: The folder is missing or holds no media file, or a name is too long.
    """
    if not data.is_dir():
        raise DataError(f"{data}: is not a folder; name the folder that holds your videos")
    files = [path for path in find_media([data]) if output is None or not path.is_relative_to(output)]
    if not files:
        raise DataError(f"{data}: holds no media file apart from what was prepared in {output}")
    videos = [path for path in files if path.suffix.lower() not in _SOUND]
    of_place, of_stem = _index(data, videos, by_place=True), _index(data, videos, by_place=False)
    sound_of: dict[Path, Path] = {}
    alone: list[Path] = []
    for path in files:
        if path.suffix.lower() not in _SOUND:
            continue
        owners = of_place.get(_key(data, path)) or of_stem.get(plain_name(path.name), [])
        if len(owners) == 1 and owners[0] not in sound_of:
            sound_of[owners[0]] = path
        else:
            alone.append(path)
    names = _names(data, [*videos, *alone])
    clips = [Clip(names[path], _place(data, path), path, sound_of.get(path)) for path in videos]
    clips += [Clip(names[path], _place(data, path), None, path) for path in alone]
    return sorted(clips, key=lambda clip: clip.place)


class ClipFinder:
    """Find the clip that a cell of a label file means: by place, by name, or by a number that lost its zeros.

    Folders, suffix, case and Unicode form may differ, as far as one clip alone is meant.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._of_place = _grouped((place_key(clip.place), clip) for clip in clips)
        self._of_name = _grouped(
            (key, clip) for clip in clips for key in {plain_name(clip.place), clip.name.casefold()}
        )
        numbers = ((plain_name(clip.place), clip) for clip in clips)
        self._of_number = _grouped((key.lstrip("0"), clip) for key, clip in numbers if key.isdigit())

    def __call__(self, cell: str) -> list[Clip]:
        """Return the clips that the cell may mean."""
        key = plain_name(cell.strip())
        number = key.removesuffix(".0")  # a spreadsheet takes 007 for a number
        parts = place_key(cell).split("/")
        below = (
            self._of_place.get("/".join(parts[first:])) for first in range(len(parts))
        )  # `predict` writes the full path
        return (
            next(filter(None, below), None)
            or self._of_name.get(key)
            or (self._of_number.get(number.lstrip("0")) if number.isdigit() else None)
            or []
        )


def same_bytes(clips: Sequence[Clip]) -> dict[str, str]:
    """Return for each clip whose file is a copy of an earlier clip's that clip's name, by name."""
    of_size = _grouped((str((clip.video or clip.sound or Path()).stat().st_size), clip) for clip in clips)
    copies: dict[str, str] = {}
    for alike in of_size.values():
        first: dict[bytes, str] = {}
        for clip in alike if len(alike) > 1 else ():
            with (clip.video or clip.sound or Path()).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if first.setdefault(digest, clip.name) != clip.name:
                copies[clip.name] = first[digest]
    return copies


def place_key(cell: str) -> str:
    r"""Return a path without suffix in a form that compares, whatever system wrote it.

    >>> place_key("Day 1\\Take.MP4")
    'day 1/take'
    """
    folders, _, _ = unicodedata.normalize("NFC", cell.strip()).replace("\\", "/").casefold().rpartition("/")
    return f"{folders.removeprefix('./')}/{plain_name(cell.strip())}".removeprefix("/")


def _names(data: Path, files: Sequence[Path]) -> dict[Path, str]:
    """Name each file by its stem, by its place where another has that stem, with its suffix where that repeats, too."""
    forms = [
        {path: _safe(path.stem) for path in files},
        {path: _safe(_place(data, path).replace("/", "__")) for path in files},
        {path: _safe(str(path.relative_to(data)).replace("/", "__").replace(".", "_")) for path in files},
    ]
    # Names that differ in case only would be one file on macOS and Windows.
    counts = [Counter(name.casefold() for name in form.values()) for form in forms]
    names = {}
    for path in files:
        unique = (form[path] for form, count in zip(forms, counts, strict=True) if count[form[path].casefold()] == 1)
        name = next(unique, "")
        if not name or len(name.encode()) > LONGEST_NAME:
            fault = "its name is too long" if name else "another file has the same name but for case or accents"
            raise DataError(f"{path}: {fault}; rename the file")
        names[path] = name
    return names


def _safe(name: str) -> str:
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # file names need not be UTF-8
    return _UNSAFE.sub("_", unicodedata.normalize("NFC", text)).strip() or "_"


def _place(data: Path, path: Path) -> str:
    return path.relative_to(data).with_suffix("").as_posix()


def _key(data: Path, path: Path) -> str:
    return place_key(_place(data, path))


def _index(data: Path, videos: Iterable[Path], *, by_place: bool) -> dict[str, list[Path]]:
    return _grouped((_key(data, path) if by_place else plain_name(path.name), path) for path in videos)


def _grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
