"""Read frames and sound of any file that FFmpeg decodes, however long, in bounded memory.

Data sets are read by :mod:`affectgpt_r1.data.media.video`; this is for other files, after
:func:`affectgpt_r1.data.media.containers.inspect` has said what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from affectgpt_r1.data.media.audio import (
    MOST_CHANNELS,
    SAMPLE_RATE,
    WindowRule,
    audio_windows,
    centred,
    check_sample_rate,
    mix_down,
    resample,
    window_starts,
)
from affectgpt_r1.data.media.containers import MAX_LOST_FRACTION, Streams, audio_stream, opened, video_stream
from affectgpt_r1.data.media.pictures import as_shown, squash
from affectgpt_r1.data.media.video import FrameIndices, Frames, uniform_indices
from affectgpt_r1.errors import MediaError

LONG_SECONDS = 120.0  # of a longer file sound is read window by window, so that two hours take no more memory
SEEK_SECONDS = 5.0  # a frame farther ahead is reached by its key frame, a nearer one by decoding
SEEKS_EARLIER = (0, 5, 20, 80)  # seconds before a wanted frame where its key frame is sought, in turn
RESAMPLING_MARGIN = 0.1  # seconds around a window: the resampling filter must see no edge where the file has none


def read_uniform_frames(
    path: Path, streams: Streams, count: int, size: int | None = None, rule: FrameIndices = "floor"
) -> list[Frames]:
    """Read ``count`` frames spread over the file by their place in presentation order.

    With a variable frame rate they are spread over the frames, not over the time, as by the training sets' reader.

    Args:
        path: The file.
        streams: From :func:`~affectgpt_r1.data.media.containers.inspect`.
        count: Frames ``F``; a shorter file repeats its last.
        size: Height and width to squash each picture to, as published.
        rule: See :func:`~affectgpt_r1.data.media.video.uniform_indices`.

    Returns:
        ``F`` pictures ``(H, W, 3)`` uint8 RGB as a player shows them: turned or mirrored as the file asks, with square
        pixels and the longest edge at most :data:`~affectgpt_r1.data.media.pictures.LONGEST_EDGE` unless squashed.

    Raises:
        MediaError: A frame cannot be decoded.
    """
    wanted = [streams.picture_times[index] for index in uniform_indices(len(streams.picture_times), count, rule)]
    pictures = _pictures_at(path, wanted, size, may_seek=True, is_part=streams.is_part)
    if len(pictures) < len(set(wanted)):
        pictures = _pictures_at(path, wanted, size, may_seek=False)  # some containers cannot seek, or seek wrongly
    if missing := [time for time in wanted if time not in pictures]:
        raise MediaError(f"{path}: {len(missing)} of the {count} wanted frames cannot be decoded")
    return [pictures[time] for time in wanted]


def read_sound_windows(path: Path, streams: Streams, count: int, seconds: float, rule: WindowRule = "even") -> Tensor:
    """Read ``(W, S)`` float32 windows at 16 kHz; see :func:`~affectgpt_r1.data.media.audio.audio_windows`.

    A packet that cannot be decoded is ignored, as by players: recorded broadcasts often start with half a packet.

    Raises:
        MediaError: The sound cannot be decoded, or too much of it is damaged.
    """
    duration = streams.sound_end - streams.sound_start
    if duration <= LONG_SECONDS and not streams.is_part:
        with opened(path) as container:
            stream = audio_stream(container, streams.audio_track)
            assert stream is not None
            waveform = _mono(path, _decoded(container.demux(stream)), stream)
        held, decoded = streams.sound_seconds, waveform.shape[0] / SAMPLE_RATE
        if decoded < held * (1 - MAX_LOST_FRACTION) - 0.1:
            raise MediaError(f"{path}: only {decoded:.1f} of {held:.1f} seconds of its sound can be decoded")
        return audio_windows(waveform, SAMPLE_RATE, count, seconds, rule)
    starts = sound_window_starts(streams, count, seconds, rule)
    with opened(path) as container:
        windows = torch.stack([_sound_between(path, container, streams, start, seconds) for start in starts])
    return centred(windows) if rule == "published" else windows


def sound_window_starts(streams: Streams, count: int, seconds: float, rule: WindowRule = "even") -> list[float]:
    """Return where the windows of a file's sound start, in seconds of the file."""
    samples = round(max(streams.sound_end - streams.sound_start, seconds) * SAMPLE_RATE)
    starts = window_starts(samples, SAMPLE_RATE, count, seconds, rule)
    return [streams.sound_start + start / SAMPLE_RATE for start in starts]


def picture_seconds(streams: Streams, count: int, rule: FrameIndices = "floor") -> list[float]:
    """Return the times of ``count`` uniform frames in seconds."""
    times = streams.picture_times
    return [times[index] * streams.time_base for index in uniform_indices(len(times), count, rule)]


def _sound_between(
    path: Path, container: av.container.InputContainer, streams: Streams, start: float, seconds: float
) -> Tensor:
    """Return a window ``(S,)`` from ``start``, or from where the sound resumes after a pause."""
    stream = audio_stream(container, streams.audio_track)
    assert stream is not None
    begin = start - RESAMPLING_MARGIN
    frames: list[Any] = []
    if _seek(container, stream, max(0.0, begin)) or _seek(container, stream, 0.0):
        for frame in _decoded(container.demux(stream)):
            if frame.time is None or frame.time + frame.samples / frame.sample_rate < begin:
                continue
            if frames and frame.time > max(start, frames[0].time) + seconds + RESAMPLING_MARGIN:
                break
            frames.append(frame)
    if not frames:
        raise MediaError(f"{path}: its sound at {start:.1f} s cannot be decoded")
    offset = max(0, round((start - frames[0].time) * SAMPLE_RATE))
    length = round(seconds * SAMPLE_RATE)
    return audio_windows(_mono(path, frames, stream)[offset : offset + length], SAMPLE_RATE, 1, seconds)[0]


def _mono(path: Path, frames: Iterable[Any], stream: av.AudioStream) -> Tensor:
    check_sample_rate(path, stream.rate)
    waveform = mix_down(frame for frame in frames if frame.layout.nb_channels <= MOST_CHANNELS)
    if not np.isfinite(waveform).all():
        raise MediaError(f"{path}: the sound holds samples that are not finite")
    return resample(torch.from_numpy(waveform), stream.rate)


def _pictures_at(
    path: Path, wanted: Sequence[int], size: int | None, *, may_seek: bool, is_part: bool = False
) -> dict[int, Frames]:
    """Return the pictures at the wanted times that are reached."""
    pictures: dict[int, Frames] = {}
    with opened(path) as container:
        stream = video_stream(container)
        assert stream is not None
        assert stream.time_base is not None
        far = int(SEEK_SECONDS / stream.time_base)
        first = (stream.start_time or 0) if is_part else min(wanted)
        position = first
        may_seek = may_seek and container.format.name != "ogg"  # it ends up between key frames, at green pictures
        frames = _decoded(container.demux(stream))  # one iterator: the last packet of a file gives several frames
        for time in sorted(set(wanted)):
            if may_seek and time - position > far:
                near = _frames_near(container, stream, first, time)
                if near is None:
                    return pictures
                frames = near
            frame = next((frame for frame in frames if (frame.pts or 0) >= time), None)
            if frame is None:
                return pictures
            if size is None:
                pictures[time] = as_shown(frame, stream.sample_aspect_ratio or Fraction(1))
            else:
                pictures[time] = squash(frame, size, as_player=True)
            position = time
    return pictures


def _frames_near(
    container: av.container.InputContainer, stream: av.VideoStream, first: int, time: int
) -> Iterator[Any] | None:
    """Yield frames from a key frame at or before ``time``, not before ``first``; None if seeking finds none.

    Broadcasts and discs have no index: a seek ends anywhere, and what is decoded from there is gray or late.
    """
    base = stream.time_base or Fraction(1)
    for earlier in SEEKS_EARLIER:
        if not _seek(container, stream, float(max(first * base, time * base - earlier))):
            return None
        packets = container.demux(stream)
        key = next((packet for packet in packets if packet.is_keyframe), None)
        if key is not None and key.pts is not None and key.pts <= time:
            return _decoded(chain([key], packets))
    return None


def _seek(container: av.container.InputContainer, stream: av.stream.Stream, seconds: float) -> bool:
    try:
        container.seek(int(seconds / (stream.time_base or 1)), stream=stream, backward=True)
    except av.FFmpegError:
        return False  # the container cannot seek; the caller decodes from the start
    return True


def _decoded(packets: Iterable[Any]) -> Iterator[Any]:
    """Yield frames in order; a packet that cannot be decoded yields none, as in players."""
    for packet in packets:
        with suppress(av.FFmpegError):
            yield from packet.decode()
