"""What a media file really holds, and how it is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from affectgpt_r1.data.media.containers import inspect
from affectgpt_r1.errors import MediaError


def test_a_name_that_looks_like_an_address_is_a_file(write_video, tmp_path: Path, monkeypatch):
    write_video(tmp_path / "plain.mp4").rename(tmp_path / "scene:1.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(inspect(Path("scene:1.mp4")).picture_times) == 20


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match=r"pipe\.mp4: is not a regular file"):
        inspect(tmp_path / "pipe.mp4")


def test_a_codec_that_nobody_knows_is_refused(tmp_path: Path, write_video):
    path = write_video(tmp_path / "new.mp4", codec="libx264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xxxx"))
    with pytest.raises(MediaError, match=r"new\.mp4: cannot be read .*: FFmpeg knows no decoder for its video stream"):
        inspect(path)


def test_pictures_without_times_are_refused(tmp_path: Path, write_video):
    path = write_video(tmp_path / "raw.h264", codec="libx264")
    with pytest.raises(MediaError, match=r"raw\.h264: its pictures have no times"):
        inspect(path)


def test_a_declared_duration_is_not_believed(write_video, tmp_path: Path):
    path = write_video(tmp_path / "huge.mkv", sound=True)
    content = bytearray(path.read_bytes())
    duration = content.index(b"\x44\x89\x88") + 3  # Matroska's Duration: a double, in milliseconds
    content[duration : duration + 8] = struct.pack(">d", 1e13)
    path.write_bytes(bytes(content))
    with av.open(str(path)) as container:
        assert container.duration > 10**6 * 1_000_000
    streams = inspect(path)
    assert len(streams.picture_times) == 20
    assert streams.sound_end < 3
    assert streams.notes == (
        "the header promises 10000000000 s and the file holds 2 s: it is cut short, or the header is wrong",
    )


def test_sound_alone_is_read(write_wave, tmp_path: Path):
    streams = inspect(write_wave(tmp_path / "voice.wav", 3.0))
    assert (streams.has_video, streams.has_audio) == (False, True)
    assert (streams.sound_start, streams.sound_end) == (0.0, pytest.approx(3.0, abs=0.01))


def test_no_audio_track_is_seen(write_video, tmp_path: Path):
    assert not inspect(write_video(tmp_path / "silent.mp4")).has_audio


@pytest.mark.parametrize("content", [b"", b"this is a text file, not a video\n" * 40])
def test_what_is_no_media_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"clip\.mp4: cannot be read"):
        inspect(path)


def test_a_truncated_file_is_refused(write_video, tmp_path: Path):
    full = write_video(tmp_path / "full.mp4", [index / 10 for index in range(200)], size=(320, 240))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(full.read_bytes()[: full.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        inspect(cut)


def test_a_file_cut_behind_its_index_is_refused(tmp_path: Path):
    full = tmp_path / "full.mp4"
    with av.open(str(full), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(100):
            picture = noise.integers(0, 255, (240, 320, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(full.read_bytes()[: full.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cut short: \d+ of 100 frames"):
        inspect(cut)


def test_an_avi_with_dropped_frames_is_not_cut_short(write_video, tmp_path: Path):
    path = write_video(tmp_path / "webcam.avi", [index / 10 for index in range(24)], codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 1000  # its count includes those that never came
    assert len(inspect(path).picture_times) == 24


def cut_without_encoding(full: Path, path: Path, *, seconds: float) -> Path:
    """The video from ``seconds`` on, with the frames before it that its first ones are predicted from."""
    with av.open(str(full)) as origin, av.open(str(path), "w") as container:
        stream = origin.streams.video[0]
        copied, late = container.add_stream_from_template(stream), round(seconds / stream.time_base)
        for packet in origin.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - late, packet.dts - late, copied
                container.mux(packet)
    return path


def test_titles_that_are_no_utf_8_do_not_matter(tmp_path: Path, write_video):
    path = tmp_path / "old.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A cafe in Paris"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert b"cafe" in content
    path.write_bytes(content.replace(b"cafe", "café".encode("cp1252")))
    assert len(inspect(path).picture_times) == 20


def test_frames_that_a_cut_left_unshown_do_not_count(tmp_path: Path, write_video):
    path = cut_without_encoding(write_video(tmp_path / "full.mp4"), tmp_path / "cut.mp4", seconds=0.5)
    with av.open(str(path)) as container:
        packets = [packet.is_discard for packet in container.demux(video=0) if packet.size]
        assert packets == [True] * 5 + [False] * 15
    times = inspect(path).picture_times
    assert (len(times), times[0]) == (15, 0)
