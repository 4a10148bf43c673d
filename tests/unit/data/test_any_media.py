"""Files that nobody prepared: what is read of them, and how they are refused."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from affectgpt_r1.data.any_media import inspect, read_sound_windows, read_uniform_frames
from affectgpt_r1.errors import MediaError


def brightness(pictures) -> list[int]:
    """Of the lower half's middle, which tells the frame's number."""
    return [int(picture[picture.shape[0] * 3 // 4, picture.shape[1] // 2].mean()) for picture in pictures]


def frames_of(path: Path, count: int = 8):
    return read_uniform_frames(path, inspect(path), count)


def test_uniform_frames_by_their_number(write_video, tmp_path: Path):
    frames = frames_of(write_video(tmp_path / "clip.mp4", [index / 10 for index in range(240)]))
    assert brightness(frames) == pytest.approx([0, 30, 60, 90, 120, 150, 180, 210], abs=4)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


def test_a_variable_frame_rate_spreads_over_frames(write_video, tmp_path: Path):
    times = [*(index / 50 for index in range(100)), *(2 + index for index in range(100))]
    assert brightness(frames_of(write_video(tmp_path / "clip.mkv", times))) == pytest.approx(
        [0, 25, 50, 75, 100, 125, 150, 175], abs=4
    )


def test_two_hours_are_sought_not_decoded(write_video, tmp_path: Path):
    path = write_video(tmp_path / "long.mkv", [index * 36.0 for index in range(200)])
    assert brightness(frames_of(path)) == pytest.approx([0, 25, 50, 75, 100, 125, 150, 175], abs=4)


def test_a_fifth_of_a_second_repeats_its_last_frame(write_video, tmp_path: Path):
    path = write_video(tmp_path / "short.mp4", [0.0, 0.1], sound=True)
    assert brightness(frames_of(path)) == pytest.approx([0] + [1] * 7, abs=4)


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [("libsvtav1", "yuv420p", "mp4"), ("libvpx-vp9", "yuv420p", "webm"), ("libx265", "yuv420p", "mp4"),
     ("libx264", "yuv444p", "mov"), ("ffv1", "yuv420p", "mkv")],
)  # fmt: skip
def test_codecs(write_video, tmp_path: Path, codec: str, pixels: str, suffix: str):
    path = write_video(tmp_path / f"clip.{suffix}", codec=codec, pixels=pixels)
    assert len(inspect(path).picture_times) == 20
    assert brightness(frames_of(path, 4)) == pytest.approx([0, 5, 10, 15], abs=4)


def test_odd_sizes_keep_their_shape(write_video, tmp_path: Path):
    path = write_video(tmp_path / "odd.mkv", size=(33, 27), codec="ffv1", pixels="yuv444p")
    assert frames_of(path)[0].shape == (27, 33, 3)


def test_large_pictures_are_scaled_as_they_are_decoded(write_video, tmp_path: Path):
    path = write_video(tmp_path / "4k.mp4", [0.0, 0.1], size=(3840, 2160))
    assert frames_of(path, 2)[0].shape == (720, 1280, 3)


def test_a_rotated_phone_video_stands_upright(write_video, tmp_path: Path):
    path = write_video(tmp_path / "phone.mp4")
    content = path.read_bytes()
    upright = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    clockwise = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    track = content.index(b"tkhd")
    assert upright in content[track:]
    path.write_bytes(content[:track] + content[track:].replace(upright, clockwise, 1))
    picture = frames_of(path, 1)[0]
    assert picture.shape == (64, 48, 3)
    assert picture[32, 40, 0] > 150 > picture[32, 8, 0]  # the red top went to the right


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
    assert streams.sound_seconds < 3
    assert brightness(frames_of(path, 4)) == pytest.approx([0, 5, 10, 15], abs=4)


def test_sound_alone_is_read(write_wave, tmp_path: Path):
    streams = inspect(write_wave(tmp_path / "voice.wav", 3.0))
    assert (streams.has_video, streams.has_audio) == (False, True)
    assert streams.sound_seconds == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("seconds", [20.0, 400.0])
def test_windows_of_short_and_long_sound_agree_with_the_ramp(write_wave, tmp_path: Path, seconds: float):
    path = write_wave(tmp_path / "ramp.wav", seconds)
    windows = read_sound_windows(path, inspect(path), 8, 2.0)
    assert windows.shape == (8, 32_000)
    starts = [(seconds - 2) * index / 7 for index in range(8)]
    expected = [(start + 1.0) / seconds * 30_000 / 32_768 for start in starts]  # amplitude at each window's middle
    assert windows[:, 15_000:17_000].mean(1).tolist() == pytest.approx(expected, abs=2e-3)


def test_no_audio_track_is_seen(write_video, tmp_path: Path):
    assert not inspect(write_video(tmp_path / "silent.mp4")).has_audio


@pytest.mark.parametrize("content", [b"", b"this is a text file, not a video\n" * 40])
def test_what_is_no_media_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"clip\.mp4: cannot be read"):
        inspect(path)


def test_a_truncated_file_is_refused(write_video, tmp_path: Path):
    whole = write_video(tmp_path / "whole.mp4", [index / 10 for index in range(200)], size=(320, 240))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        inspect(cut)


def test_a_file_cut_behind_its_index_is_refused(tmp_path: Path):
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(100):
            picture = noise.integers(0, 255, (240, 320, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cut short: \d+ of 100 frames"):
        inspect(cut)
