"""Reading ``.srt``."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from affectgpt_r1.data.media import subtitles
from affectgpt_r1.data.media.subtitles import read_srt
from affectgpt_r1.errors import DataError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>I am fine.</i>

2
00:00:03,000 --> 00:00:04,000 X1:40 Y1:20
{\\an8}Really,
42
"""


def test_spoken_text_without_numbers_times_and_markup(tmp_path: Path):
    path = tmp_path / "clip.srt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(SRT, encoding=encoding, newline="\r\n")
        assert read_srt(path) == "I am fine. Really, 42"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"\xe7a va", "UTF-8"), (b"just text", "no `00:00:01,000"), (None, "cannot be read")],
)
def test_what_is_no_srt_is_refused_by_name(tmp_path: Path, content: bytes | None, reason: str):
    path = tmp_path / "clip.srt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"clip\.srt: .*{reason}"):
        read_srt(path)


def test_a_file_too_large_for_subtitles_is_not_read(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\n" + "x\n" * (1 << 21))
    with pytest.raises(DataError, match="more than 4,194,304 bytes"):
        read_srt(path)


def test_many_drawings_take_no_time():
    event = SimpleNamespace(ass=b"0,0,Default,,0,0,0,," + b"{" + rb"\p1" * 100_000)
    start = time.process_time()
    assert subtitles._plain(event).startswith("{")
    assert time.process_time() - start < 1
    assert subtitles._plain(SimpleNamespace(ass=rb"0,0,D,,0,0,0,,{\p1}m 0 0{\p0}Hi {\b1}you")) == "Hi you"
