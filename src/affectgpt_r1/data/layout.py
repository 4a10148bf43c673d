"""Where the published layout keeps each clip's media."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.types import Modality, Visual


def video_file(root: Path, name: str) -> Path:
    """The clip with picture and, as a rule, sound: ``video/<name>.mp4``."""
    return root / "video" / f"{name}.mp4"


def audio_file(root: Path, name: str) -> Path:
    """The extracted sound ``audio/<name>.wav``, or the clip's mp4 where only that exists."""
    wav, mp4 = root / "audio" / f"{name}.wav", video_file(root, name)
    return mp4 if mp4.exists() and not wav.exists() else wav


def face_file(root: Path, name: str) -> Path:
    """The face crops: ``openface_face/<name>/<name>.npy`` (challenge sets) or ``openface_face/<name>.npy``."""
    nested = root / "openface_face" / name / f"{name}.npy"
    flat = root / "openface_face" / f"{name}.npy"
    return flat if flat.exists() and not nested.exists() else nested


def media_files(root: Path, name: str, modalities: Sequence[Modality], visual: Visual) -> list[Path]:
    """The files that the modalities read of a clip, whether or not they exist."""
    files = []
    if "video" in modalities:
        files += [face_file(root, name)] if visual in ("face", "both") else []
        files += [video_file(root, name)] if visual != "face" else []
    if "audio" in modalities:
        files.append(audio_file(root, name))
    return files


def is_safe_name(name: str) -> bool:
    """Whether a clip name stays inside the data folder when it is made a file name.

    >>> is_safe_name("sample_00000001"), is_safe_name("../../etc/passwd"), is_safe_name("/etc/passwd")
    (True, False, False)
    """
    return bool(name) and name not in {".", ".."} and not any(mark in name for mark in "/\\\0")
