"""What is said: the text of ``.srt`` files and of subtitle tracks inside a video."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av

from affectgpt_r1.errors import DataError

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TIMES = re.compile(r"^\s*\d+:\d\d:\d\d[,.]\d+\s*-->\s*\d+:\d\d:\d\d[,.]\d+.*$")
_MARKUP = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]*\}")
_ASS_FIELDS_BEFORE_TEXT = 8
_ASS_SPAN = re.compile(r"\{([^{}]*)\}[^{]*")
_ASS_DRAWS = re.compile(r"\\p[1-9]")
_ASS_BRACES = re.compile(r"(?<!\\)\{[^{}]*\}")
_ASS_SPACES = re.compile(r"\\[Nnh]|\n")
_MOST_BYTES = 1 << 22  # of a file; a film's has 100 kB
_WORD_JOINER = "\u2060"


def read_srt(path: Path) -> str:
    """The spoken text of a subtitle file, without numbers, times and markup.

    Raises:
        DataError: The file cannot be read, is neither UTF-8 nor marked as UTF-16, or holds no ``-->`` line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise DataError(f"{path}: has more than {_MOST_BYTES:,} bytes, too many for subtitles; give a clip's own")
        lines = content.decode("utf-16" if content.startswith(_UTF_16_MARKS) else "utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is neither UTF-8 nor marked as UTF-16 ({error.reason} at byte {error.start}); convert it to UTF-8"
        ) from error
    is_time = [bool(_TIMES.match(line)) for line in lines]
    if not any(is_time):
        raise DataError(f"{path}: has no `00:00:01,000 --> 00:00:02,000` line, so it is no .srt file")
    spoken = []
    for number, line in enumerate(lines):
        is_count = line.strip().isdigit() and number + 1 < len(lines) and is_time[number + 1]
        if line.strip() and not is_time[number] and not is_count:
            spoken.append(_MARKUP.sub("", line).strip())
    return " ".join(text for text in spoken if text)


def text_track(container: av.container.InputContainer) -> av.subtitles.stream.SubtitleStream | None:
    """The text track that a player shows first: the default one, else the first; one of forced lines alone last."""
    readable = [stream for stream in container.streams.subtitles if _is_text(stream)]
    default, forced = av.stream.Disposition.default, av.stream.Disposition.forced
    return min(
        readable,
        key=lambda stream: (bool(stream.disposition & forced), not stream.disposition & default),
        default=None,
    )


def line_of_packet(packet: av.Packet[Any]) -> str | None:
    """The words that a packet of a text track shows, without markup and drawings; None if it is damaged."""
    try:
        return " ".join(filter(None, (_plain(shown) for shown in packet.decode())))
    except (av.FFmpegError, ValueError):  # ValueError: not UTF-8
        return None


def about_track(container: av.container.InputContainer, lines: Sequence[str | None]) -> str:
    """What a reader should know of a file's subtitle tracks; ``""`` without one.

    Args:
        container: The file.
        lines: Of every packet of its :func:`text_track`.
    """
    if (track := text_track(container)) is None:
        names = [_codec_name(stream) for stream in container.streams.subtitles]
        return f"its subtitle tracks ({', '.join(names)}) are no text and are not read" if names else ""
    known = ", ".join(filter(None, (_codec_name(track), track.language)))
    damaged = sum(line is None for line in lines)
    lost = f"; {damaged} of its {len(lines)} lines are damaged and left out" if damaged else ""
    if not any(lines):
        return f"its subtitle track ({known}) holds no words{lost}"
    return f"what is said is from its subtitle track ({known}){lost}"


def _is_text(stream: av.subtitles.stream.SubtitleStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.text_sub


def _codec_name(stream: av.subtitles.stream.SubtitleStream) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else "unknown"


def _plain(shown: Any) -> str:
    r"""Text of one of FFmpeg's ASS events; a brace that is said is written ``\{{}`` there."""
    event = shown.ass.decode("utf-8").split(",", _ASS_FIELDS_BEFORE_TEXT)
    drawn = _ASS_SPAN.sub(lambda span: "" if _ASS_DRAWS.search(span[1]) else span[0], event[-1])
    text = _ASS_BRACES.sub("", drawn).replace("\\{", "{")
    return _MARKUP.sub("", _ASS_SPACES.sub(" ", text)).replace(_WORD_JOINER, "").strip()
