"""Where the published layout keeps each clip's media."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.io.untrusted_files import has_control_character

VIDEO_PLACES = ("video/{}.mp4", "video_new/{}.mp4", "subvideo-tgt/{}.avi", "subvideo_new/{}.mp4", "subvideo/{}.mp4")
"""The challenge sets' place, and those of MER-UniBench's sets, the one that is read before the one it was cut from."""
AUDIO_PLACES = ("audio/{}.wav", "subaudio/{}.wav")
FACE_PLACES = ("openface_face/{0}/{0}.npy", "openface_face/{0}.npy")
"""Those of the challenge sets, and those of a folder without subfolders."""


def video_file(root: Path, name: str) -> Path:
    """The clip with picture and, as a rule, sound: the first of :data:`VIDEO_PLACES` that is there, else the first."""
    return _first(root, name, VIDEO_PLACES)


def audio_file(root: Path, name: str) -> Path:
    """The extracted sound, at the first of :data:`AUDIO_PLACES`, or the clip's video where only that exists."""
    wav, video = _first(root, name, AUDIO_PLACES), video_file(root, name)
    return video if video.exists() and not wav.exists() else wav


def name_forms(name: str) -> list[str]:
    """How a disk may spell a clip's name: macOS writes an umlaut as two characters (NFD), label files as one (NFC).

    >>> [len(form) for form in name_forms("für")], name_forms("for")
    ([3, 4], ['for'])
    """
    if name.isascii():
        return [name]
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return list(dict.fromkeys(forms))


def _first(root: Path, name: str, places: Sequence[str]) -> Path:
    files = [root / place.format(form) for place in places for form in name_forms(name)]
    return next((file for file in files if file.exists()), files[0])


def face_file(root: Path, name: str) -> Path:
    """The face crops, at the first of :data:`FACE_PLACES` that is there, else the first."""
    return _first(root, name, FACE_PLACES)


def is_safe_name(name: str) -> bool:
    r"""Whether a clip name stays inside the data folder when it is made a file name, and on one line.

    >>> is_safe_name("sample_00000001"), is_safe_name("../../etc/passwd"), is_safe_name("/etc/passwd")
    (True, False, False)
    """
    return (
        bool(name)
        and name not in {".", ".."}
        and not any(mark in name for mark in "/\\")
        and not has_control_character(name)
    )
