"""Find out what a media file really holds.

What a container declares (duration, number of frames) is not trusted: the packets are counted, which costs one read of
the file and no decoding.
"""

from __future__ import annotations

import errno
import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av

from affectgpt_r1.data.media.decoding_process import in_decoding_process
from affectgpt_r1.data.media.pictures import HDR
from affectgpt_r1.data.media.subtitles import Cue, about_track, cue_of_packet, spoken, text_track
from affectgpt_r1.errors import MediaError

MAX_LOST_FRACTION = 0.1  # a file that lacks more of the promised frames, or of its sound, is damaged or cut short
# Containers whose header holds the duration; FFmpeg estimates that of others from the bit rate.
FORMATS_WITH_A_DURATION = ("matroska", "mov", "avi", "asf", "wav")

# Not among them: what reads a list or a pattern of other files (hls, concat, dash, sdp, image2, vobsub), or a device.
_FORMATS = (
    "3dostr aa aac ac3 aiff amr amrnb amrwb ape apng asf au av1 avi bink caf dts dv eac3 flac flic flv gif gxf h261 "
    "h263 h264 hevc ivf latm live_flv loas m4v matroska mjpeg mov mp3 mpc mpc8 mpeg mpegts mpegvideo mxf nsv nut nuv "
    "obu ogg oma rm roq smjpeg smk swf tak truehd tta vc1 vc1test vvc w64 wav wtv wv xwma yuv4mpegpipe "
    "bmp_pipe jpeg_pipe jpegxl_pipe png_pipe tiff_pipe webp webp_pipe"
)
_OPTIONS = {"format_whitelist": _FORMATS.replace(" ", ","), "protocol_whitelist": "file"}

_JPEG = b"\xff\xd8\xff"

_INTERLACED = range(2, 6)  # AVFieldOrder: top or bottom field first, coded or shown

MAX_PIXELS = 1 << 26  # of a frame; twice those of 8K


class Streams(NamedTuple):
    """What a file really holds."""

    picture_times: list[int]  # presentation times of the frames, sorted, in the stream's time base
    sound_start: float  # of the first audio packet, in seconds; a recorded broadcast does not start at 0
    sound_end: float  # of the last audio packet; the start's equal without an audio track
    sound_seconds: float  # of all audio packets; less than from start to end where a call or a broadcast paused
    cues: tuple[Cue, ...] = ()  # of its subtitle track
    notes: tuple[str, ...] = ()  # for the reader of an answer to it
    time_base: float = 0.0  # seconds of a unit of picture_times
    audio_track: int | None = None  # number among the sound tracks, from 1; None is the one that a player takes
    is_part: bool = False  # see between

    @property
    def has_video(self) -> bool:
        """Whether there are frames."""
        return bool(self.picture_times)

    @property
    def has_audio(self) -> bool:
        """Whether there is sound."""
        return self.sound_end > self.sound_start

    @property
    def text(self) -> str:
        """What its subtitle track says."""
        return spoken(self.cues)

    @property
    def start(self) -> float:
        """Where picture or sound begins, in seconds."""
        starts = [self.picture_times[0] * self.time_base] if self.has_video else []
        return min([*starts, self.sound_start] if self.has_audio else starts)

    @property
    def end(self) -> float:
        """Where picture and sound end, in seconds; the length of the last frame is not known."""
        return max(self.sound_end, self.picture_times[-1] * self.time_base if self.has_video else 0.0)

    def between(self, start: float, end: float) -> Streams:
        """Return what the file holds from ``start`` to ``end`` seconds."""
        sound_start, sound_end = max(self.sound_start, start), min(self.sound_end, end)
        return self._replace(
            picture_times=[time for time in self.picture_times if start <= time * self.time_base < end],
            sound_start=sound_start,
            sound_end=max(sound_start, sound_end),
            sound_seconds=max(0.0, sound_end - sound_start),
            cues=tuple(cue for cue in self.cues if cue.start < end and cue.end > start),
            is_part=True,
        )


@in_decoding_process
def inspect(path: Path, *, with_text: bool = False, audio_track: str | None = None) -> Streams:
    """Count the packets of a file's first video stream and of its sound track; a cover picture is not a video.

    Packets that the file marks as hidden, as a cut without encoding leaves them at its start, do not count.

    Args:
        path: The file.
        with_text: Read a subtitle track, too; see :func:`~affectgpt_r1.data.media.subtitles.text_track`.
        audio_track: Number, from 1, or language of the sound track; None is the one that a player takes.

    Raises:
        MediaError: FFmpeg cannot read it, it holds neither, it is cut short, or has no such sound track.
    """
    times: list[int] = []
    cues: list[Cue | None] = []
    num_pictures = 0
    sound_start, sound_end, sound_seconds = math.inf, 0.0, 0.0
    with opened(path) as container:
        video, audio = video_stream(container), audio_stream(container, audio_track)
        if video is None and audio is None:
            raise MediaError(f"{path}: has neither a video nor an audio stream")
        titles = text_track(container) if with_text else None
        for packet in container.demux([stream for stream in (video, audio, titles) if stream is not None]):
            num_pictures += packet.stream is video and packet.size > 0
            if packet.stream is titles and packet.size:
                cues.append(cue_of_packet(packet))
            elif packet.pts is None or packet.is_discard:
                continue
            elif packet.stream is video:
                times.append(packet.pts)
            elif packet.stream is audio:
                start, end = _span(packet)
                sound_start, sound_end = min(sound_start, start), max(sound_end, end)
                sound_seconds += end - start
        times.sort()
        if num_pictures and not times:
            raise MediaError(f"{path}: its pictures have no times, as in a raw stream; put it into a container")
        if video is not None and _is_cut_short(video, times):
            raise MediaError(f"{path}: cut short: {len(times)} of {video.frames} frames are there")
        last_picture = float(times[-1] * (video.time_base or 0)) if times and video is not None else 0.0
        about_text = about_track(container, cues) if with_text else ""
        about_streams = [*_about_pictures(video), *_about_sound(container, audio)]
        time_base = float(video.time_base or 0) if video is not None else 0.0
        track = list(container.streams.audio).index(audio) + 1 if audio is not None and audio_track else None
        about_length = _about_length(container, max(sound_end, last_picture))
    sound_start = min(sound_start, sound_end)
    about_pauses = _about_pauses(sound_seconds, sound_end - sound_start)
    about_ends = _about_ends(len(times), last_picture, sound_end)
    return Streams(
        picture_times=times,
        sound_start=sound_start,
        sound_end=sound_end,
        sound_seconds=sound_seconds,
        cues=tuple(cue for cue in cues if cue is not None),
        notes=tuple(filter(None, (*about_streams, about_text, about_length, about_pauses, about_ends))),
        time_base=time_base,
        audio_track=track,
    )


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file with FFmpeg.

    Raises:
        MediaError: It cannot be opened; or what is done with it fails by an error of FFmpeg's.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MediaError(
                f"{path}: is not a regular file, or a folder that may not be searched; write what comes from a pipe to "
                "a file, which is read more than once"
            )
        # `file:`, or FFmpeg takes `scene:1.mp4` for an address. Old titles and names of authors are not UTF-8.
        address, kind = f"file:{path}", _photo_format(path)
        with av.open(address, "r", kind, _OPTIONS, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # without the path, which FFmpeg repeats
        if getattr(error, "errno", 0) == errno.EINVAL:
            reason = f"{reason}; playlists, patterns and other lists of files are not opened: name the files themselves"
        raise MediaError(f"{path}: cannot be read as video or sound: {reason}") from error


def _photo_format(path: Path) -> str | None:
    """Return the format of a JPEG photo, which FFmpeg would take by its suffix for a pattern of many files' names."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return None
    with path.open("rb") as file:
        return "jpeg_pipe" if file.read(len(_JPEG)) == _JPEG else None


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the first stream that is not a cover picture.

    Raises:
        ValueError: FFmpeg knows no decoder for it, or its pictures are larger than ``MAX_PIXELS``.
    """
    streams: Sequence[av.VideoStream] = container.streams.video
    is_cover = av.stream.Disposition.attached_pic
    stream = next((stream for stream in streams if not stream.disposition & is_cover), None)
    if stream is not None:
        if stream.codec_context is None:
            raise ValueError("FFmpeg knows no decoder for its video stream")
        if stream.width * stream.height > MAX_PIXELS:
            raise ValueError(f"its pictures have {stream.width} x {stream.height} pixels, more than {MAX_PIXELS}")
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a picture may differ from what was declared
        stream.codec_context.thread_count = 1
    return stream


def audio_stream(container: av.container.InputContainer, track: str | int | None = None) -> av.AudioStream | None:
    """Return the sound track that a player takes: the default one, else the first.

    Those that cannot be decoded are left out: phones add a spatial track to the plain one.

    Args:
        container: The file.
        track: Number, from 1, or language of another track.

    Raises:
        ValueError: FFmpeg knows no decoder for any, or there is no such track.
    """
    streams: Sequence[av.AudioStream] = container.streams.audio
    known = [stream for stream in streams if stream.codec_context is not None]
    if streams and not known:
        raise ValueError("FFmpeg knows no decoder for its audio stream")
    if track is None:
        is_default = av.stream.Disposition.default
        return min(known, key=lambda stream: not stream.disposition & is_default, default=None)
    for number, stream in enumerate(streams, start=1):
        if stream in known and str(track) in (str(number), stream.language):
            return stream
    named = ", ".join(f"{number} ({stream.language or 'no language'})" for number, stream in enumerate(streams, 1))
    raise ValueError(f"it has no sound track {track}; its tracks: {named or 'none'}")


def _about_pictures(video: av.VideoStream | None) -> Iterator[str]:
    if video is None:
        return
    codec = video.codec_context
    if codec.color_trc in HDR:
        yield f"its pictures are HDR ({HDR[codec.color_trc]}) and are tone-mapped"
    if codec.field_order in _INTERLACED:
        yield "its pictures are interlaced and are deinterlaced"


def _about_sound(container: av.container.InputContainer, audio: av.AudioStream | None) -> Iterator[str]:
    if audio is None:
        return
    tracks = list(container.streams.audio)
    if len(tracks) > 1:
        language = f" ({audio.language})" if audio.language else ""
        yield f"heard is sound track {tracks.index(audio) + 1} of {len(tracks)}{language}"
    if audio.codec_context.layout.nb_channels > 2:
        yield f"its {audio.codec_context.layout.name} sound is mixed down to one channel"


def _about_ends(num_pictures: int, last_picture: float, sound_end: float) -> str:
    if num_pictures == 1:
        return "its picture is a single frame"
    if num_pictures and sound_end > last_picture * (1 + MAX_LOST_FRACTION) + 1:
        return f"its sound is longer than its pictures: {sound_end:.1f} s against {last_picture:.1f} s"
    return ""


def _span(packet: av.Packet[Any]) -> tuple[float, float]:
    start, length = packet.pts or 0, packet.duration or 0
    return float(start * packet.time_base), float((start + length) * packet.time_base)


def _is_cut_short(video: av.VideoStream, times: Sequence[int]) -> bool:
    """Judge by the count of frames and by their times: an AVI's count includes frames that the camera dropped."""
    if len(times) >= video.frames * (1 - MAX_LOST_FRACTION) - 2:
        return False
    reached = times[-1] - (video.start_time or 0) if times else 0
    return not video.duration or reached < video.duration * (1 - MAX_LOST_FRACTION)


def _about_length(container: av.container.InputContainer, held: float) -> str:
    """Return a note where the header promises more than the ``held`` seconds, ``""`` where it does not."""
    promised = (container.duration or 0) / av.time_base
    if not container.format.name.startswith(FORMATS_WITH_A_DURATION) or held >= promised * (1 - MAX_LOST_FRACTION) - 1:
        return ""
    return (
        f"the header promises {promised:.0f} s and the file holds {held:.0f} s: it is cut short, or the header is wrong"
    )


def _about_pauses(held: float, span: float) -> str:
    if held >= span * (1 - MAX_LOST_FRACTION) - 1:
        return ""
    return f"its sound pauses, or is lost in places: {held:.0f} of {span:.0f} s are there"
