"""Frames and sound of any file that FFmpeg reads, however long, in bounded memory.

Data sets are read by :mod:`affectgpt_r1.data.video`; this is for files that nobody prepared. What a container declares
(duration, number of frames) is not believed: the packets are counted, which costs one read of the file and no decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from affectgpt_r1.data.audio import SAMPLE_RATE, audio_windows, read_waveform, resample
from affectgpt_r1.data.video import Frames, uniform_indices
from affectgpt_r1.errors import MediaError

LONGEST_EDGE = 1280
"""Larger pictures are scaled down as they are decoded; faces and the towers need less."""

WHOLE_SOUND_SECONDS = 120.0
"""Longer sound is read window by window, so that a two-hour file takes no more memory than a short one."""

SEEK_SECONDS = 5.0
"""A wanted frame this far ahead is sought by its key frame; a nearer one is reached by decoding."""

RESAMPLING_MARGIN = 0.1
"""Seconds of sound around a window, so that the resampling filter sees no edge where the file has none."""

LOST_SHARE = 0.1
"""A file that lacks more of the frames that its header promises is cut short."""


class Streams(NamedTuple):
    """What a file really holds."""

    picture_times: list[int]  # presentation times of the video packets, sorted, in the stream's time base
    promised_frames: int  # by the header; 0 where it does not say
    sound_seconds: float  # end of the last audio packet; 0 without an audio track
    has_video: bool
    has_audio: bool


def inspect(path: Path) -> Streams:
    """Count the packets of a file's first video and first audio stream; a cover picture is no video.

    Raises:
        MediaError: FFmpeg cannot read it, it holds neither, or it is cut short.
    """
    times: list[int] = []
    sound_end = 0.0
    with _opened(path) as container:
        video, audio = _video_stream(container), next(iter(container.streams.audio), None)
        chosen = [stream for stream in (video, audio) if stream is not None]
        if not chosen:
            raise MediaError(f"{path}: has neither a video nor an audio stream")
        for packet in container.demux(chosen):
            if packet.pts is None:
                continue
            if packet.stream is video:
                times.append(packet.pts)
            else:
                sound_end = max(sound_end, float((packet.pts + (packet.duration or 0)) * (packet.time_base or 0)))
        promised = video.frames if video is not None else 0
    if len(times) < promised * (1 - LOST_SHARE) - 2:
        raise MediaError(f"{path}: cut short: {len(times)} of {promised} frames are there")
    return Streams(sorted(times), promised, sound_end, bool(times), audio is not None and sound_end > 0)


def read_uniform_frames(path: Path, streams: Streams, count: int) -> list[Frames]:
    """Read ``count`` frames spread over the file by their place in presentation order.

    With a variable frame rate this spreads them over the frames, not over the time, as the training sets' reader does.

    Args:
        path: The file.
        streams: From :func:`inspect`.
        count: Frames ``F``; a shorter file repeats its last.

    Returns:
        ``F`` pictures ``(H, W, 3)`` uint8 RGB, upright as the file's rotation asks, the longest edge at most
        ``LONGEST_EDGE``.

    Raises:
        MediaError: A frame cannot be decoded.
    """
    wanted = [streams.picture_times[index] for index in uniform_indices(len(streams.picture_times), count)]
    pictures = _pictures_at(path, wanted, may_seek=True)
    if len(pictures) < len(set(wanted)):
        pictures = _pictures_at(path, wanted, may_seek=False)  # some containers cannot seek, or lose their way
    if missing := [time for time in wanted if time not in pictures]:
        raise MediaError(f"{path}: {len(missing)} of the {count} wanted frames cannot be decoded")
    return [pictures[time] for time in wanted]


def read_sound_windows(path: Path, streams: Streams, count: int, seconds: float) -> Tensor:
    """Read ``(W, S)`` float32 windows at 16 kHz, their starts evenly spaced as in training.

    Raises:
        MediaError: The sound cannot be decoded.
    """
    if streams.sound_seconds <= WHOLE_SOUND_SECONDS:
        waveform, rate = read_waveform(path)
        return audio_windows(resample(torch.from_numpy(waveform), rate), SAMPLE_RATE, count, seconds)
    last_start = streams.sound_seconds - seconds
    starts = [last_start * index / max(count - 1, 1) for index in range(count)]
    with _opened(path) as container:
        windows = [_sound_between(container, start, seconds) for start in starts]
    if missing := [start for start, window in zip(starts, windows, strict=True) if window is None]:
        raise MediaError(f"{path}: its sound at {missing[0]:.1f} s cannot be decoded")
    return torch.stack([window for window in windows if window is not None])


def _sound_between(container: av.container.InputContainer, start: float, seconds: float) -> Tensor | None:
    stream = container.streams.audio[0]
    begin = max(0.0, start - RESAMPLING_MARGIN)
    if not _seek(container, stream, begin) and not _seek(container, stream, 0.0):
        return None
    planar = av.AudioResampler(format="fltp")
    pieces: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
    first: float | None = None
    for frame in _decoded(container, stream):
        if frame.time is None or frame.time + frame.samples / frame.sample_rate < begin:
            continue
        if frame.time > start + seconds + RESAMPLING_MARGIN:
            break
        first = frame.time if first is None else first
        pieces.extend(piece.to_ndarray().astype(np.float32) for piece in planar.resample(frame))
    if first is None:
        return None
    waveform = torch.from_numpy(np.concatenate(pieces, axis=1).mean(0))
    at_rate = resample(waveform, stream.rate)
    offset = max(0, round((start - first) * SAMPLE_RATE))
    length = round(seconds * SAMPLE_RATE)
    return audio_windows(at_rate[offset : offset + length], SAMPLE_RATE, 1, seconds)[0]


def _pictures_at(path: Path, wanted: Sequence[int], *, may_seek: bool) -> dict[int, Frames]:
    """The pictures shown at the wanted times; those that are not reached are left out."""
    pictures: dict[int, Frames] = {}
    with _opened(path) as container:
        stream = _video_stream(container)
        assert stream is not None
        assert stream.time_base is not None
        stream.codec_context.thread_count = 1
        far, position = int(SEEK_SECONDS / stream.time_base), min(wanted)
        for time in sorted(set(wanted)):
            if may_seek and time - position > far and not _seek(container, stream, float(time * stream.time_base)):
                return pictures
            frame = next((frame for frame in _decoded(container, stream) if (frame.pts or 0) >= time), None)
            if frame is None:
                return pictures
            pictures[time] = _upright(frame)
            position = time
    return pictures


def _seek(container: av.container.InputContainer, stream: av.stream.Stream, seconds: float) -> bool:
    try:
        container.seek(int(seconds / (stream.time_base or 1)), stream=stream, backward=True)
    except av.FFmpegError:
        return False  # the container cannot seek; the caller goes another way
    return True


def _decoded(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[Any]:
    """Frames in order; a packet that cannot be decoded gives none, as in any player, and is missed by the caller."""
    for packet in container.demux(stream):
        with suppress(av.FFmpegError):
            yield from packet.decode()


def _upright(frame: av.VideoFrame) -> Frames:
    scale = min(1.0, LONGEST_EDGE / max(frame.width, frame.height))
    picture = frame.to_ndarray(
        format="rgb24", width=max(2, round(frame.width * scale)), height=max(2, round(frame.height * scale))
    )
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    streams: Sequence[av.VideoStream] = container.streams.video
    return next((stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic), None)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read as video or sound: {error}") from error
