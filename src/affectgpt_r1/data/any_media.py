"""Frames and sound of any file that FFmpeg reads, however long, in bounded memory.

Data sets are read by :mod:`affectgpt_r1.data.video`; this is for files that nobody prepared. What a container declares
(duration, number of frames) is not believed: the packets are counted, which costs one read of the file and no decoding.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from affectgpt_r1.data.audio import MOST_CHANNELS, SAMPLE_RATE, audio_windows, average_channels, resample
from affectgpt_r1.data.subtitles import about_track, line_of_packet, text_track
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
"""A file that lacks more of the frames that its header promises, or of its sound, is damaged or cut short."""

FORMATS_WITH_A_DURATION = ("matroska", "mov", "avi", "asf", "wav")
"""Containers whose header says how long they are; of the others FFmpeg guesses it from the bit rate."""


class Streams(NamedTuple):
    """What a file really holds."""

    picture_times: list[int]  # presentation times of the video packets, sorted, in the stream's time base
    sound_start: float  # of the first audio packet, in seconds; a recorded broadcast does not start at 0
    sound_end: float  # of the last audio packet; the start's equal without an audio track
    declared_seconds: float  # by the header; 0 where it does not say
    held_seconds: float  # from 0 to the end of the last packet
    has_video: bool
    has_audio: bool
    text: str = ""  # of its subtitle track
    about_text: str = ""  # what a reader of it should know


def inspect(path: Path, *, with_text: bool = False) -> Streams:
    """Count the packets of a file's first video and first audio stream; a cover picture is no video.

    Args:
        path: The file.
        with_text: Read a subtitle track, too; see :func:`~affectgpt_r1.data.subtitles.text_track`.

    Raises:
        MediaError: FFmpeg cannot read it, it holds neither, or it is cut short.
    """
    times: list[int] = []
    lines: list[str | None] = []
    num_pictures = 0
    sound_start, sound_end = math.inf, 0.0
    with _opened(path) as container:
        video, audio = _video_stream(container), _audio_stream(container)
        _check_streams(path, video, audio)
        titles = text_track(container) if with_text else None
        for packet in container.demux([stream for stream in (video, audio, titles) if stream is not None]):
            num_pictures += packet.stream is video and packet.size > 0
            if packet.stream is titles and packet.size:
                lines.append(line_of_packet(packet))
            elif packet.pts is None:
                continue
            elif packet.stream is video:
                times.append(packet.pts)
            elif packet.stream is audio:
                start, end = _span(packet)
                sound_start, sound_end = min(sound_start, start), max(sound_end, end)
        times.sort()
        if num_pictures and not times:
            raise MediaError(f"{path}: its pictures have no times, as in a raw stream; put it into a container")
        if video is not None and _is_cut_short(video, times):
            raise MediaError(f"{path}: cut short: {len(times)} of {video.frames} frames are there")
        sound_start = min(sound_start, sound_end)
        held = max(sound_end, float(times[-1] * (video.time_base or 0)) if times and video is not None else 0.0)
        declared = (container.duration or 0) / av.time_base
        is_said = container.format.name.startswith(FORMATS_WITH_A_DURATION)
        about_text = about_track(container, lines) if with_text else ""
    return Streams(
        picture_times=times,
        sound_start=sound_start,
        sound_end=sound_end,
        declared_seconds=declared if is_said else 0.0,
        held_seconds=held,
        has_video=bool(times),
        has_audio=sound_end > sound_start,
        text=" ".join(filter(None, lines)),
        about_text=about_text,
    )


def _check_streams(path: Path, *streams: av.stream.Stream | None) -> None:
    there = [stream for stream in streams if stream is not None]
    if not there:
        raise MediaError(f"{path}: has neither a video nor an audio stream")
    for stream in there:
        if stream.codec_context is None:
            raise MediaError(f"{path}: FFmpeg knows no decoder for its {stream.type} stream")


def _span(packet: av.Packet[Any]) -> tuple[float, float]:
    """Start and end of a packet in seconds."""
    start, length = packet.pts or 0, packet.duration or 0
    return float(start * packet.time_base), float((start + length) * packet.time_base)


def _is_cut_short(video: av.VideoStream, times: Sequence[int]) -> bool:
    """By the count of frames and by their times, for an AVI's count includes frames that the camera dropped."""
    if len(times) >= video.frames * (1 - LOST_SHARE) - 2:
        return False
    reached = times[-1] - (video.start_time or 0) if times else 0
    return not video.duration or reached < video.duration * (1 - LOST_SHARE)


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

    A packet that cannot be decoded is passed over, as players do: recorded broadcasts often start with half a one.

    Raises:
        MediaError: The sound cannot be decoded, or too much of it is damaged.
    """
    there = streams.sound_end - streams.sound_start
    if there <= WHOLE_SOUND_SECONDS:
        with _opened(path) as container:
            stream = _audio_stream(container)
            assert stream is not None
            whole = _mono(path, _decoded(container, stream), stream)
        if whole.shape[0] < there * (1 - LOST_SHARE) * SAMPLE_RATE - SAMPLE_RATE // 10:
            decoded = whole.shape[0] / SAMPLE_RATE
            raise MediaError(f"{path}: only {decoded:.1f} of {there:.1f} seconds of its sound can be decoded")
        return audio_windows(whole, SAMPLE_RATE, count, seconds)
    starts = [streams.sound_start + (there - seconds) * index / max(count - 1, 1) for index in range(count)]
    with _opened(path) as container:
        return torch.stack([_sound_between(path, container, start, seconds) for start in starts])


def _sound_between(path: Path, container: av.container.InputContainer, start: float, seconds: float) -> Tensor:
    stream = _audio_stream(container)
    assert stream is not None
    begin, end = start - RESAMPLING_MARGIN, start + seconds + RESAMPLING_MARGIN
    frames: list[Any] = []
    if _seek(container, stream, max(0.0, begin)) or _seek(container, stream, 0.0):
        for frame in _decoded(container, stream):
            if frame.time is None or frame.time + frame.samples / frame.sample_rate < begin:
                continue
            if frame.time > end:
                break
            frames.append(frame)
    if not frames:
        raise MediaError(f"{path}: its sound at {start:.1f} s cannot be decoded")
    offset = max(0, round((start - frames[0].time) * SAMPLE_RATE))
    length = round(seconds * SAMPLE_RATE)
    return audio_windows(_mono(path, frames, stream)[offset : offset + length], SAMPLE_RATE, 1, seconds)[0]


def _mono(path: Path, frames: Iterable[Any], stream: av.AudioStream) -> Tensor:
    """The sound frames' samples ``(N,)`` at 16 kHz."""
    waveform = average_channels(frame for frame in frames if frame.layout.nb_channels <= MOST_CHANNELS)
    if not np.isfinite(waveform).all():
        raise MediaError(f"{path}: the sound holds samples that are not finite")
    return resample(torch.from_numpy(waveform), stream.rate)


def _pictures_at(path: Path, wanted: Sequence[int], *, may_seek: bool) -> dict[int, Frames]:
    """The pictures shown at the wanted times; those that are not reached are left out."""
    pictures: dict[int, Frames] = {}
    with _opened(path) as container:
        stream = _video_stream(container)
        assert stream is not None
        assert stream.time_base is not None
        stream.codec_context.thread_count = 1
        far, position = int(SEEK_SECONDS / stream.time_base), min(wanted)
        frames = _decoded(container, stream)  # one iterator: the last packet of a file gives several frames
        for time in sorted(set(wanted)):
            if may_seek and time - position > far:
                if not _seek(container, stream, float(time * stream.time_base)):
                    return pictures
                frames = _decoded(container, stream)
            frame = next((frame for frame in frames if (frame.pts or 0) >= time), None)
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
    turns = round(frame.rotation / 90)
    if _is_mirrored(frame):  # the file asks for a flip before a turn, of which FFmpeg's angle knows nothing
        picture, turns = picture[:, ::-1], turns + 2
    return np.ascontiguousarray(np.rot90(picture, turns))


def _is_mirrored(frame: av.VideoFrame) -> bool:
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    across_x, across_y, _, down_x, down_y = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
    return bool(across_x * down_y < across_y * down_x)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    streams: Sequence[av.VideoStream] = container.streams.video
    return next((stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic), None)


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first that can be decoded: phones put a spatial track beside the plain one."""
    streams: Sequence[av.AudioStream] = container.streams.audio
    return next((stream for stream in streams if stream.codec_context is not None), next(iter(streams), None))


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MediaError(f"{path}: is no ordinary file; it is read more than once, so write it to one")
        with av.open(f"file:{path}") as container:  # or FFmpeg takes `scene:1.mp4` for an address
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # without the path, which FFmpeg repeats
        raise MediaError(f"{path}: cannot be read as video or sound: {reason}") from error
