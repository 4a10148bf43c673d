"""Text of ``.srt`` subtitles."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from affectgpt_r1.errors import DataError

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TIMES = re.compile(r"^\s*\d+:\d\d:\d\d[,.]\d+\s*-->\s*\d+:\d\d:\d\d[,.]\d+.*$")
_MARKUP = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")


def read_srt(path: Path) -> str:
    """The spoken text of a subtitle file, without numbers, times and markup.

    Raises:
        DataError: The file cannot be read, is neither UTF-8 nor marked as UTF-16, or holds no ``-->`` line.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-16" if content.startswith(_UTF_16_MARKS) else "utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); convert it to UTF-8") from error
    is_time = [bool(_TIMES.match(line)) for line in lines]
    if not any(is_time):
        raise DataError(f"{path}: has no `00:00:01,000 --> 00:00:02,000` line, so it is no .srt file")
    spoken = []
    for number, line in enumerate(lines):
        is_count = line.strip().isdigit() and number + 1 < len(lines) and is_time[number + 1]
        if line.strip() and not is_time[number] and not is_count:
            spoken.append(_MARKUP.sub("", line).strip())
    return " ".join(text for text in spoken if text)
