"""The media files that paths name, or that lie in folders."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from affectgpt_r1.errors import DataError

VIDEO_SUFFIXES = "3g2 3gp asf avi f4v flv gif m1v m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogv rm swf ts vob webm wmv"
SOUND_SUFFIXES = "aac flac m4a mp3 oga ogg opus wav"
MEDIA_SUFFIXES = frozenset(f".{suffix}" for suffix in f"{VIDEO_SUFFIXES} {SOUND_SUFFIXES}".split())
"""What a folder is searched for; a file that is named itself may have any suffix."""


def find_media(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and in place of a folder all media files below it, by name; each file once.

    Links to folders are followed. What is hidden is left out: ``._clip.mp4`` beside ``clip.mp4`` is what macOS leaves
    on other systems' disks. A folder that may not be read is given as if it were a file, so that it is listed among
    those that cannot be.

    Raises:
        DataError: A path does not exist, or a folder holds no media file.
    """
    found: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(_media_below(path))
            if not inside:
                raise DataError(f"{path}: holds no media file; name the files themselves if their suffix is unusual")
            found.extend(inside)
            continue
        try:
            path.stat()
        except OSError as error:
            raise DataError(f"{path}: {(error.strerror or 'cannot be found').lower()}") from error
        found.append(path)
    once: dict[str, Path] = {}
    for path in found:
        once.setdefault(os.path.realpath(path), path)
    return list(once.values())


def clip_names(files: Sequence[Path]) -> dict[str, str]:
    """A name for each file by its path: its own without the suffix, or the whole path where another file has that name.

    Names are in the composed normal form (NFC), as those of label files are read.

    >>> clip_names([Path("a/one.mp4"), Path("a/two.mp4"), Path("b/two.mkv")])
    {'a/one.mp4': 'one', 'a/two.mp4': 'a/two.mp4', 'b/two.mkv': 'b/two.mkv'}
    """
    stem_of = {path: unicodedata.normalize("NFC", path.stem) for path in files}
    number = Counter(stem_of.values())
    return {str(path): stem if number[stem] == 1 else str(path) for path, stem in stem_of.items()}


def _media_below(top: Path) -> Iterator[Path]:
    searched: set[str] = set()  # a link may lead back to a folder above it
    unreadable: list[Path] = []
    for folder, folders, files in os.walk(
        top, followlinks=True, onerror=lambda error: unreadable.append(Path(error.filename))
    ):
        if os.path.realpath(folder) in searched:
            folders.clear()
            continue
        searched.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if Path(name).suffix.lower() in MEDIA_SUFFIXES and not name.startswith("."):
                yield Path(folder, name)
    yield from unreadable
