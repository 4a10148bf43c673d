"""Reading subtitle files."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from affectgpt_r1.data.media import subtitles
from affectgpt_r1.data.media.subtitles import read_subtitles
from affectgpt_r1.errors import DataError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>I am fine.</i>

2
00:00:03,000 --> 00:00:04,000 X1:40 Y1:20
{\\an8}Really,
42
"""


VTT = """WEBVTT - of a call

STYLE
::cue { color: red }

NOTE not said

intro
00:01.000 --> 00:02.000 align:start
<v Ann>I am <c.loud>fine.</c>

2
00:00:03.000 --> 00:00:04.000
Really,
42
"""
ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,not said
Dialogue: 0,0:00:01.00,0:00:02.00,Default,Ann,0,0,0,,{\\i1}I am{\\i0} fine.
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\\p1}m 0 0 l 9 9{\\p0}Really,\\N42
"""


@pytest.mark.parametrize(("suffix", "content"), [("srt", SRT), ("vtt", VTT), ("ASS", ASS)])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spoken_text_without_numbers_times_and_markup(tmp_path: Path, suffix: str, content: str, encoding: str):
    path = tmp_path / f"clip.{suffix}"
    path.write_text(content, encoding=encoding, newline="\r\n")
    assert read_subtitles(path) == "I am fine. Really, 42"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"\xe7a va", "UTF-8"), (b"just text", "no `00:00:01,000"), (None, "cannot be read")],
)
def test_what_is_not_an_srt_is_refused_by_name(tmp_path: Path, content: bytes | None, reason: str):
    path = tmp_path / "clip.srt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"clip\.srt: .*{reason}"):
        read_subtitles(path)


@pytest.mark.parametrize("suffix", ["vtt", "ass"])
@pytest.mark.parametrize("content", [b"", b"just text", b"WEBVTT", b"[Script Info]", b"#EXTM3U\nfile:///etc/passwd"])
def test_a_file_without_a_cue_is_refused_by_name(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"clip\.{suffix}: (has no cue|cannot be read)"):
        read_subtitles(path)


@pytest.mark.parametrize("suffix", ["srt", "vtt", "ass"])
@pytest.mark.parametrize("text", ["<a", "{", "< ", "\\N", "1 --> ", "{\\p1}"])
def test_repeated_markup_takes_no_time(tmp_path: Path, suffix: str, text: str):
    path = tmp_path / f"clip.{suffix}"
    content = {
        "srt": SRT.replace("Really,", "W"),
        "vtt": VTT.replace("Really,", "W"),
        "ass": ASS.replace("Really", "W"),
    }
    path.write_text(content[suffix].replace("W", text * (1 << 18)), "utf-8")
    start = time.monotonic()
    with suppress(DataError):  # FFmpeg refuses a cue of this length in .vtt
        read_subtitles(path)
    assert time.monotonic() - start < 10


def test_a_file_too_large_for_subtitles_is_not_read(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\n" + "x\n" * (1 << 21))
    with pytest.raises(DataError, match="more than 4,194,304 bytes"):
        read_subtitles(path)


def test_many_drawings_take_no_time():
    event = SimpleNamespace(ass=b"0,0,Default,,0,0,0,," + b"{" + rb"\p1" * 100_000)
    start = time.process_time()
    assert subtitles._plain(event).startswith("{")
    assert time.process_time() - start < 1
    assert subtitles._plain(SimpleNamespace(ass=rb"0,0,D,,0,0,0,,{\p1}m 0 0{\p0}Hi {\b1}you")) == "Hi you"
