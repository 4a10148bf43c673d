"""Subtitle tracks inside a file."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.subtitles.subtitle import SubtitleSet

from affectgpt_r1.data.media.containers import inspect
from affectgpt_r1.data.media.subtitles import read_subtitles
from helpers.films import add_subtitles

ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,16

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
LINES = (r"{\i1}I am fine{\i0},\Nreally.", r"{\an8}<i>Oh</i> <b>no</b>!", "")


def write_titled(path: Path, *tracks: tuple[str, Sequence[str]], flags: Sequence[str] = ()) -> Path:
    """A film with a subtitle track for each ``(codec, lines)``, their languages eng, fra, ...; lines are ASS."""
    with av.open(str(path), "w") as container:
        film = container.add_stream("mpeg4", rate=10)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        titles = []
        for (codec, _), language in zip(tracks, ("eng", "fra", "deu"), strict=False):
            stream = container.add_stream(codec)
            stream.codec_context.subtitle_header = ASS_HEADER
            stream.time_base, stream.metadata["language"] = Fraction(1, 1000), language
            titles.append(stream)
        for stream, flag in zip(titles, flags, strict=False):
            stream.disposition = sum(av.stream.Disposition[name].value for name in flag.split())
        for _ in range(20):
            container.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(film.encode(None))
        for stream, (_, lines) in zip(titles, tracks, strict=True):
            for number, line in enumerate(lines):
                event = SubtitleSet.create(f"{number},0,Default,,0,0,0,,{line}".encode(), 0, 500, pts=number * 600)
                packet = stream.codec_context.encode_subtitle(event)
                packet.stream, packet.time_base, packet.dts = stream, Fraction(1, 1000), packet.pts
                container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("codec", "suffix", "name"),
    [("srt", "mkv", "subrip"), ("ass", "mkv", "ass"), ("webvtt", "mkv", "webvtt"), ("mov_text", "mp4", "mov_text")],
)
def test_the_words_of_a_track_without_markup(tmp_path: Path, codec: str, suffix: str, name: str):
    streams = inspect(write_titled(tmp_path / f"clip.{suffix}", (codec, LINES)), with_text=True)
    assert streams.text == "I am fine, really. Oh no!"
    assert streams.notes == (f"what is said is from its subtitle track ({name}, eng)",)
    assert len(streams.picture_times) == 20


def test_a_track_reads_as_the_srt_that_it_was_made_of(tmp_path: Path):
    srt = tmp_path / "clip.srt"
    srt.write_text(
        "1\n00:00:00,000 --> 00:00:00,500\n<i>I am</i> fine,\nreally; a < b.\n\n"
        "2\n00:00:01,000 --> 00:00:01,500\n- Où ça? 42, l'été 映画\n",
        "utf-8",
    )
    film = write_titled(tmp_path / "film.mkv", ("srt", []))
    assert inspect(add_subtitles(film, srt, tmp_path / "both.mkv"), with_text=True).text == read_subtitles(srt)


def test_comments_and_drawings_are_not_said(tmp_path: Path):
    lines = [r"{typeset}{\pos(1,2)\p1}m 0 0 l 9 9{\p0}Stop{\clip(" + "m 1 1 " * 60 + r")}\hit.", r"{\p2}m 0 0 l 1 1"]
    assert inspect(write_titled(tmp_path / "clip.mkv", ("ass", lines)), with_text=True).text == "Stop it."


@pytest.mark.parametrize(
    ("flags", "language"),
    [(["", "", ""], "eng"), (["", "default", ""], "fra"), (["forced", "", ""], "fra"),
     (["default forced", "", "default"], "deu"), (["forced", "forced", "forced"], "eng")],
)  # fmt: skip
def test_the_default_track_comes_first_and_forced_lines_last(tmp_path: Path, flags: list[str], language: str):
    tracks = [("srt", [word]) for word in ("eng", "fra", "deu")]
    assert inspect(write_titled(tmp_path / "clip.mkv", *tracks, flags=flags), with_text=True).text == language


def test_tracks_of_pictures_are_named_and_passed_over(tmp_path: Path):
    path = write_titled(tmp_path / "disc.mkv", ("srt", ["not text any more"]))
    pictures = path.read_bytes().replace(b"S_TEXT/UTF8", b"S_HDMV/PGS\0")
    path.write_bytes(pictures)
    streams = inspect(path, with_text=True)
    assert (streams.text, streams.notes) == (
        "",
        ("its subtitle tracks (hdmv_pgs_subtitle) hold no text and are not read",),
    )
    path.write_bytes(pictures.replace(b"S_HDMV/PGS\0", b"S_UNKNOWN_X"))
    assert "(unknown) hold no text" in inspect(path, with_text=True).notes[0]
    both = write_titled(tmp_path / "both.mkv", ("srt", ["gone"]), ("ass", ["Here."]))
    both.write_bytes(both.read_bytes().replace(b"S_TEXT/UTF8", b"S_HDMV/PGS\0"))
    assert inspect(both, with_text=True).text == "Here."


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path):
    path = write_titled(tmp_path / "clip.mkv", ("srt", ["I am fine.", "Leave me alone!"]))
    path.write_bytes(path.read_bytes().replace(b"I am fine.", b"\xff\xfeam \xc3ine."))
    streams = inspect(path, with_text=True)
    assert streams.text == "Leave me alone!"
    assert streams.notes[0].endswith("track (subrip, eng); 1 of its 2 lines are damaged and left out")
    path.write_bytes(path.read_bytes().replace(b"Leave", b"\xff\xff\xff\xff\xff"))
    streams = inspect(path, with_text=True)
    assert streams.text == ""
    assert streams.notes == (
        "its subtitle track (subrip, eng) holds no words; 2 of its 2 lines are damaged and left out",
    )
    assert len(streams.picture_times) == 20


def test_without_a_track_or_a_wish_nothing_is_said(tmp_path: Path, write_video):
    assert inspect(write_video(tmp_path / "plain.mp4"), with_text=True)[4:6] == ((), ())
    assert inspect(write_titled(tmp_path / "clip.mkv", ("srt", ["Hello."])))[4:6] == ((), ())
