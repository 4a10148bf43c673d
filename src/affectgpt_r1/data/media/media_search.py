"""Find the media files that paths name or that are in folders."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from affectgpt_r1.errors import DataError

VIDEO_SUFFIXES = "3g2 3gp asf avi f4v flv gif m1v m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogv rm swf ts vob webm wmv"
SOUND_SUFFIXES = "aac flac m4a mp3 oga ogg opus wav"
# What a folder is searched for; a file that is named may have any suffix.
MEDIA_SUFFIXES = frozenset(f".{suffix}" for suffix in f"{VIDEO_SUFFIXES} {SOUND_SUFFIXES}".split())


def find_media(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and all media files below the folders that are, by name; each file once.

    Links to folders are followed. Hidden files are left out, such as the ``._clip.mp4`` that macOS writes next to
    ``clip.mp4`` on other systems' disks. A folder that may not be read is returned, too, so that it is listed among the
    files that cannot be read.

    Raises:
        DataError: A path does not exist, or a folder holds no media file.
    """
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(_media_below(path))
            if not inside:
                raise DataError(f"{path}: holds no media file; name the files themselves if their suffix is unusual")
            files.extend(inside)
            continue
        try:
            path.stat()
        except OSError as error:
            raise DataError(f"{path}: {(error.strerror or 'cannot be found').lower()}") from error
        files.append(path)
    unique: dict[str, Path] = {}
    for path in files:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def clip_names(files: Sequence[Path]) -> dict[str, str]:
    """Name each file by its stem, or by its path where another file has that stem.

    Names are composed (NFC), as those of label files.

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
