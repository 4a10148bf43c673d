"""What is said: the text of subtitle files, and of subtitle tracks inside a video.

FFmpeg reads ``.vtt`` and ``.ass``, as it reads tracks. It is not used for ``.srt``, of which it drops repeated cues and
words in braces; nor is pysubs2, which drops a number that is said last, and takes 16 s for 40 kB of opening braces.
"""

from __future__ import annotations

import codecs
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av

from affectgpt_r1.data.media.decoding_process import in_decoding_process
from affectgpt_r1.errors import DataError, MediaError

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass")

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TIMES = re.compile(r"^\s*(\d+:\d\d:\d\d[,.]\d+)\s*-->\s*(\d+:\d\d:\d\d[,.]\d+).*$")
_MARKUP = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]*\}")
_ASS_FIELDS_BEFORE_TEXT = 8
_ASS_SPAN = re.compile(r"\{([^{}]*)\}[^{]*")
_ASS_DRAWS = re.compile(r"\\p[1-9]")
_ASS_BRACES = re.compile(r"(?<!\\)\{[^{}]*\}")
_ASS_SPACES = re.compile(r"\\[Nnh]|\n")
_MOST_BYTES = 1 << 22  # of a file; a film's has 100 kB
_WORD_JOINER = "\u2060"


class Cue(NamedTuple):
    """What is said from ``start`` to ``end`` seconds."""

    start: float
    end: float
    text: str


def spoken(cues: Iterable[Cue]) -> str:
    """Return the words of cues in their order."""
    return " ".join(cue.text for cue in cues if cue.text)


def read_subtitles(path: Path) -> str:
    """Return the words of :func:`read_cues`."""
    return spoken(read_cues(path))


def read_cues(path: Path) -> tuple[Cue, ...]:
    """Return what a ``.srt``, ``.vtt`` or ``.ass`` file says, without comments and markup.

    Raises:
        DataError: The file cannot be read, is too large, is neither UTF-8 nor marked as UTF-16, or holds no cue.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise DataError(f"{path}: has more than {_MOST_BYTES:,} bytes, too many for subtitles; give a clip's own")
        text = content.decode("utf-16" if content.startswith(_UTF_16_MARKS) else "utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is neither UTF-8 nor marked as UTF-16 ({error.reason} at byte {error.start}); convert it to UTF-8"
        ) from error
    match path.suffix.lower():
        case ".vtt":
            return _demuxed(path, text, "webvtt")
        case ".ass":
            return _demuxed(path, text, "ass")
        case _:
            return _cues_of_srt(path, text.splitlines())


def _cues_of_srt(path: Path, lines: Sequence[str]) -> tuple[Cue, ...]:
    times = [_TIMES.match(line) for line in lines]
    if not any(times):
        raise DataError(f"{path}: has no `00:00:01,000 --> 00:00:02,000` line, so it is not an .srt file")
    cues: list[Cue] = []
    start, end = 0.0, math.inf  # of words before the first time
    for number, line in enumerate(lines):
        is_count = line.strip().isdigit() and number + 1 < len(lines) and times[number + 1]
        if (match := times[number]) is not None:
            start, end = (_seconds(match[side]) for side in (1, 2))
        elif not is_count and (text := _MARKUP.sub("", line).strip()):
            cues.append(Cue(start, end, text))
    return tuple(cues)


def _seconds(time: str) -> float:
    hours, minutes, seconds = time.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _demuxed(path: Path, text: str, demuxer: str) -> tuple[Cue, ...]:
    try:
        cues = _demux(path, text.encode(), demuxer)
    except MediaError as error:
        raise DataError(str(error)) from error
    if not cues:
        raise DataError(f"{path}: has no cue, so it is not a {path.suffix.lower()} file")
    return tuple(cue for cue in cues if cue is not None)


@in_decoding_process
def _demux(path: Path, content: bytes, demuxer: str) -> list[Cue | None]:
    try:
        with av.open(io.BytesIO(content), "r", format=demuxer, metadata_errors="replace") as container:
            return [cue_of_packet(packet) for packet in container.demux(container.streams.subtitles[0]) if packet.size]
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(f"{path}: cannot be read as subtitles: {error}") from error


def text_track(container: av.container.InputContainer) -> av.subtitles.stream.SubtitleStream | None:
    """Return the text track that a player shows first: the default one, else the first; forced lines alone last."""
    readable = [stream for stream in container.streams.subtitles if _is_text(stream)]
    default, forced = av.stream.Disposition.default, av.stream.Disposition.forced
    return min(
        readable,
        key=lambda stream: (bool(stream.disposition & forced), not stream.disposition & default),
        default=None,
    )


def cue_of_packet(packet: av.Packet[Any]) -> Cue | None:
    """Return what a packet of a text track shows, without markup and drawings; None if it is damaged."""
    try:
        text = " ".join(filter(None, (_plain(shown) for shown in packet.decode())))
        start = float((packet.pts or 0) * (packet.time_base or 0))
        length = float((packet.duration or 0) * (packet.time_base or 0))
        return Cue(start, start + length if length else math.inf, text)
    except (av.FFmpegError, ValueError):  # ValueError: not UTF-8
        return None


def about_track(container: av.container.InputContainer, cues: Sequence[Cue | None]) -> str:
    """Return what a reader should know of a file's subtitle tracks, ``""`` without one.

    Args:
        container: The file.
        cues: What each packet of its :func:`text_track` shows.
    """
    if (track := text_track(container)) is None:
        names = [_codec_name(stream) for stream in container.streams.subtitles]
        return f"its subtitle tracks ({', '.join(names)}) hold no text and are not read" if names else ""
    known = ", ".join(filter(None, (_codec_name(track), track.language)))
    damaged = sum(cue is None for cue in cues)
    lost = f"; {damaged} of its {len(cues)} lines are damaged and left out" if damaged else ""
    if not any(cue is not None and cue.text for cue in cues):
        return f"its subtitle track ({known}) holds no words{lost}"
    return f"what is said is from its subtitle track ({known}){lost}"


def _is_text(stream: av.subtitles.stream.SubtitleStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.text_sub


def _codec_name(stream: av.subtitles.stream.SubtitleStream) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else "unknown"


def _plain(shown: Any) -> str:
    # FFmpeg writes a brace that is said as `\{{}`.
    event = shown.ass.decode("utf-8").split(",", _ASS_FIELDS_BEFORE_TEXT)
    drawn = _ASS_SPAN.sub(lambda span: "" if _ASS_DRAWS.search(span[1]) else span[0], event[-1])
    text = _ASS_BRACES.sub("", drawn).replace("\\{", "{")
    return _MARKUP.sub("", _ASS_SPACES.sub(" ", text)).replace(_WORD_JOINER, "").strip()
