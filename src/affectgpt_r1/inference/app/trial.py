"""One file tried with one policy: what it saw and heard, what it answered, and what else it might have said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.data.clip_reader import read_pictures
from affectgpt_r1.data.dataset import ClipDataset
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.layouts.mer import audio_file, face_file, video_file
from affectgpt_r1.data.media.any_media import LONG_SECONDS
from affectgpt_r1.data.media.audio import read_waveform, window_starts
from affectgpt_r1.data.media.containers import inspect
from affectgpt_r1.data.media.video import Frames
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.errors import MediaError
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.inference.read_file import OTHER_PERSON, WITHOUT_TEXT, read_clip
from affectgpt_r1.types import Clip, UnreadableClip

NUM_ALTERNATIVES = 16
_NUM_BARS = 300
_ON_THE_PAGE = {  # what `predict` advises by its options
    WITHOUT_TEXT: "write it into “What is said”, or choose a file with a subtitle track",
    OTHER_PERSON: "affectgpt-r1 predict --person chooses another, or each",
}


class Sound(NamedTuple):
    """The sound of a file, for drawing."""

    low: NDArray[np.float32]  # by piece of equal length
    high: NDArray[np.float32]
    seconds: float
    windows: list[tuple[float, float]]  # start and end in seconds of what the policy hears


class Trial(NamedTuple):
    """See the module."""

    row: dict[str, Any]  # what `predict` writes
    pictures: list[Frames]  # full frames (H, W, 3) uint8 RGB, at the times of the crops
    seen: list[Frames]  # what the encoder got, frames or face crops
    sound: Sound | None
    alternatives: list[tuple[str, int, float]]  # sampled answer, how often, probability of its likeliest wording


def try_file(predictor: Predictor, path: Path, subtitle: str | None, number: int = NUM_ALTERNATIVES) -> Trial:
    """Answer a file as ``predict`` does, and keep what can be looked at.

    Raises:
        MediaError: The file cannot be read, or holds nothing that the policy was trained on.
        DataError: Its prompt is too long for the model.
    """
    started = time.perf_counter()
    clip, notes = read_clip(path, subtitle, predictor.media, predictor.faces)
    return _tried(predictor, clip, predictor.label(path, clip, notes, started), path, path, number)


def try_clip(predictor: Predictor, data: Path, name: str, subtitle: str, number: int = NUM_ALTERNATIVES) -> Trial:
    """Answer a clip of a data folder as ``evaluate`` does: from its own face crops and sound, where it has them.

    Raises:
        MediaError: The clip cannot be read.
        DataError: Its prompt is too long for the model.
    """
    started, media = time.perf_counter(), predictor.media
    video = video_file(data, name)
    if "video" in media.modalities and media.visual in ("face", "both") and not face_file(data, name).is_file():
        return try_file(predictor, video, subtitle, number)
    read = ClipDataset([ManifestRow(name, (), subtitle=subtitle)], data, media, seed=0)[SampleKey(0, epoch=0)]
    if isinstance(read, UnreadableClip):
        raise MediaError(read.reason)
    return _tried(predictor, read, predictor.label(video, read, [], started), video, audio_file(data, name), number)


def _tried(predictor: Predictor, clip: Clip, row: dict[str, Any], video: Path, audio: Path, number: int) -> Trial:
    row = row | {"subtitle": clip.subtitle, "notes": [_on_the_page(note) for note in row["notes"]]}
    pictures = []
    if "video" in clip.modalities:
        try:
            pictures = read_pictures(video, predictor.media, inspect(video))
        except MediaError as error:
            row["notes"].append(f"its full frames cannot be shown: {error}")
    return Trial(
        row,
        pictures,
        [] if clip.frames is None else list(clip.frames.permute(0, 2, 3, 1).numpy()),
        _sound(predictor, audio) if "audio" in clip.modalities else None,
        _sampled(predictor, clip, number),
    )


def _on_the_page(note: str) -> str:
    for advice, here in _ON_THE_PAGE.items():
        note = note.replace(advice, here)
    return note


def _sampled(predictor: Predictor, clip: Clip, number: int) -> list[tuple[str, int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for completion, probability in predictor.alternatives(clip, number) if number else ():
        words = ", ".join(completion.labels)
        times, likeliest = found.get(words, (0, 0.0))
        found[words] = (times + 1, max(likeliest, probability))
    listed = [(words, times, likeliest) for words, (times, likeliest) in found.items()]
    return sorted(listed, key=lambda line: (-line[1], -line[2], line[0]))


def _sound(predictor: Predictor, path: Path) -> Sound | None:
    media = predictor.media
    if inspect(path).sound_end > LONG_SECONDS:
        return None  # read window by window, never as a whole
    try:
        waveform, rate = read_waveform(path)
    except MediaError:
        return None  # a damaged packet, which the policy's reader ignores
    seconds = len(waveform) / rate
    pieces = np.array_split(waveform, min(_NUM_BARS, len(waveform)))
    length = max(len(waveform), round(media.window_seconds * rate))
    starts = window_starts(length, rate, media.num_windows, media.window_seconds, media.windows)
    return Sound(
        np.array([piece.min() for piece in pieces]),
        np.array([piece.max() for piece in pieces]),
        seconds,
        [(start / rate, min(seconds, start / rate + media.window_seconds)) for start in starts],
    )


def find_policies(outputs: Path, named: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the policies that can be chosen by what the page calls them: those named, then all of ``outputs``.

    The newest GRPO run is the first of the latter, as ``predict`` takes it.
    """
    folders = sorted(path.parent for path in outputs.glob("*/preprocessor_config.json"))
    checkpoints = [path for path in outputs.glob("*/*/checkpoints/best.ckpt") if path.parts[-3] != "checkpoints"]
    newest = sorted(
        checkpoints, key=lambda path: ("grpo" not in path.parts[-3], "sft" not in path.parts[-3], -path.stat().st_mtime)
    )
    found = [*named, *newest, *folders]
    return {_called(path, outputs): path for path in found}


def _called(path: Path, outputs: Path) -> str:
    shown = (path.relative_to(outputs) if path.is_relative_to(outputs) else path).as_posix()
    choices = _swept(path.parent.parent / ".hydra" / "overrides.yaml")
    return shown.removesuffix("/checkpoints/best.ckpt") + (f" ({choices})" if choices else "")


def _swept(overrides: Path) -> str:
    """Return what a sweep chose for a trial, whose folder is named by a digest; nothing for other runs."""
    if not overrides.is_file():
        return ""
    lines = overrides.read_text("utf-8", errors="replace").splitlines()
    given = [line.removeprefix("- ") for line in lines]
    places = [place for place, override in enumerate(given) if override.startswith("ablation=")]
    return " ".join(given[: places[0]]) if places else ""  # Hydra lists what it sweeps over first
