"""Where the published layout keeps each clip's media files."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.io.untrusted_files import has_control_character

# The challenge sets' place, then those of MER-UniBench's sets; a clip comes before the video that it was cut from.
VIDEO_PLACES = ("video/{}.mp4", "video_new/{}.mp4", "subvideo-tgt/{}.avi", "subvideo_new/{}.mp4", "subvideo/{}.mp4")
AUDIO_PLACES = ("audio/{}.wav", "subaudio/{}.wav")
FACE_PLACES = ("openface_face/{0}/{0}.npy", "openface_face/{0}.npy")  # of the challenge sets; without subfolders


def video_file(root: Path, name: str) -> Path:
    """Return the clip's video, usually with sound: the first of :data:`VIDEO_PLACES` that exists, else the first."""
    return _first(root, name, VIDEO_PLACES)


def audio_file(root: Path, name: str) -> Path:
    """Return the sound, at the first of :data:`AUDIO_PLACES`, or the clip's video where only that exists."""
    wav, video = _first(root, name, AUDIO_PLACES), video_file(root, name)
    return video if video.exists() and not wav.exists() else wav


def name_forms(name: str) -> list[str]:
    """Return how a disk may spell a name: macOS writes an umlaut as two characters (NFD), label files as one (NFC).

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
    """Return the face crops, at the first of :data:`FACE_PLACES` that exists, else the first."""
    return _first(root, name, FACE_PLACES)


def is_safe_name(name: str) -> bool:
    r"""Return whether a clip name is one line, and stays inside the data folder when it is made a file name.

    >>> is_safe_name("sample_00000001"), is_safe_name("../../etc/passwd"), is_safe_name("/etc/passwd")
    (True, False, False)
    """
    return (
        bool(name)
        and name not in {".", ".."}
        and not any(mark in name for mark in "/\\")
        and not has_control_character(name)
    )
