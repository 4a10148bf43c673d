"""Files outside data sets: what is read of them, and how they are refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from affectgpt_r1.data.clip_reader import read_pictures
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.media import any_media
from affectgpt_r1.data.media.any_media import read_sound_windows, read_uniform_frames
from affectgpt_r1.data.media.audio import mix_down
from affectgpt_r1.data.media.containers import inspect
from affectgpt_r1.errors import MediaError
from helpers.films import with_display_matrix


def brightness(pictures) -> list[int]:
    """Of the lower half's middle, which tells the frame's number."""
    return [int(picture[picture.shape[0] * 3 // 4, picture.shape[1] // 2].mean()) for picture in pictures]


def frames_of(path: Path, count: int = 8):
    return read_uniform_frames(path, inspect(path), count)


def test_uniform_frames_by_their_number(write_video, tmp_path: Path):
    frames = frames_of(write_video(tmp_path / "clip.mp4", [index / 10 for index in range(240)]))
    assert brightness(frames) == pytest.approx([0, 30, 60, 90, 120, 150, 180, 210], abs=4)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "tiff"])
def test_photos_with_a_colour_profile_are_shown_upright(tmp_path: Path, suffix):
    """Pillow turns them; of a phone's photo EXIF says how it was held, and every screenshot has a colour profile."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.zeros((64, 48, 3), np.uint8)
    pixels[:32, :24], pixels[32:] = (255, 0, 0), (0, 255, 0)
    for orientation in range(1, 9):
        path, exif = tmp_path / f"{orientation}.{suffix}", Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(pixels).save(path, icc_profile=profile, exif=exif.tobytes(), lossless=True)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        for picture in read_pictures(path, MediaSettings(), inspect(path)):
            assert picture.shape == expected.shape
            assert np.abs(picture.astype(int) - expected).mean() < 3  # a turn changes 40


def test_a_variable_frame_rate_spreads_over_frames(write_video, tmp_path: Path):
    times = [*(index / 50 for index in range(100)), *(2 + index for index in range(100))]
    assert brightness(frames_of(write_video(tmp_path / "clip.mkv", times))) == pytest.approx(
        [0, 25, 50, 75, 100, 125, 150, 175], abs=4
    )


def test_two_hours_are_sought_not_decoded(write_video, tmp_path: Path):
    path = write_video(tmp_path / "long.mkv", [index * 36.0 for index in range(200)])
    assert brightness(frames_of(path)) == pytest.approx([0, 25, 50, 75, 100, 125, 150, 175], abs=4)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_broadcast_without_an_index_is_sought_by_its_key_frames(write_video, tmp_path: Path, codec: str):
    path = write_video(tmp_path / "long.ts", [float(index) for index in range(200)], codec=codec)
    assert brightness(frames_of(path)) == pytest.approx([0, 25, 50, 75, 100, 125, 150, 175], abs=4)


def test_no_film_in_ogg_is_sought(write_video, tmp_path: Path, monkeypatch):
    """A seek ends between key frames, where Theora, which nothing here encodes, gives green pictures."""
    monkeypatch.setattr(any_media, "_frames_near", lambda *arguments: None)  # a seek that finds nothing
    reached = {}
    for suffix in ("ogv", "webm"):
        path = write_video(tmp_path / f"long.{suffix}", [index / 10 for index in range(100)], codec="libvpx")
        times = inspect(path).picture_times
        pictures = any_media._pictures_at(path, [times[0], times[-1]], None, may_seek=True)
        reached[suffix] = brightness(pictures.values())
    assert reached["ogv"] == pytest.approx([0, 99], abs=2)
    assert reached["webm"] == pytest.approx([0], abs=2)


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


@pytest.mark.parametrize(
    ("aspect", "shown"), [(Fraction(2), (48, 128)), (Fraction(1, 2), (48, 32)), (Fraction(25), (38, 1280))]
)
def test_oblong_pixels_become_square(tmp_path: Path, aspect: Fraction, shown: tuple[int, int]):
    with av.open(str(tmp_path / "disc.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert frames_of(tmp_path / "disc.mkv", 1)[0].shape == (*shown, 3)


@pytest.mark.parametrize(
    ("across", "down", "red", "dark"),
    [((0, 1), (-1, 0), "right", "left"), ((-1, 0), (0, -1), "bottom", "top"), ((0, -1), (1, 0), "left", "right"),
     ((-1, 0), (0, 1), "top", "bottom"), ((1, 0), (0, -1), "bottom", "top"), ((0, 1), (1, 0), "left", "right"),
     ((0, -1), (-1, 0), "right", "left")],
    ids=["90", "180", "270", "mirrored", "upside down", "transposed", "transposed and turned"],
)  # fmt: skip
def test_rotated_and_mirrored_videos_stand_upright(write_video, tmp_path: Path, across, down, red: str, dark: str):
    path = with_display_matrix(write_video(tmp_path / "phone.mp4"), across, down)
    picture = frames_of(path, 1)[0]
    assert picture.shape == ((48, 64, 3) if across[0] else (64, 48, 3))
    height, width = picture.shape[:2]
    at = {"top": (4, width // 2), "bottom": (-4, width // 2), "left": (height // 2, 4), "right": (height // 2, -4)}
    assert picture[at[red]][0] > 150 > 50 > picture[at[dark]][0]


def test_a_mirrored_picture_is_mirrored_back(tmp_path: Path):
    half = np.zeros((48, 64, 3), np.uint8)
    half[:, :32] = 250
    with av.open(str(tmp_path / "selfie.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(half, format="rgb24")))
        container.mux(stream.encode(None))
    picture = frames_of(with_display_matrix(tmp_path / "selfie.mp4", (-1, 0), (0, 1)), 1)[0]
    assert picture[24, 60, 0] > 200 > 50 > picture[24, 4, 0]


@pytest.mark.parametrize("seconds", [20.0, 400.0])
def test_windows_of_short_and_long_sound_agree_with_the_ramp(write_wave, tmp_path: Path, seconds: float):
    path = write_wave(tmp_path / "ramp.wav", seconds)
    windows = read_sound_windows(path, inspect(path), 8, 2.0)
    assert windows.shape == (8, 32_000)
    starts = [(seconds - 2) * index / 7 for index in range(8)]
    expected = [(start + 1.0) / seconds * 30_000 / 32_768 for start in starts]  # amplitude at each window's middle
    assert windows[:, 15_000:17_000].mean(1).tolist() == pytest.approx(expected, abs=2e-3)


def test_frames_that_the_last_packet_gives_together_are_all_read(write_video, tmp_path: Path):
    path = write_video(tmp_path / "phone.mp4", [0.0, 0.04, 0.08, 0.12, 0.16], codec="libx264")  # has B-frames
    assert brightness(frames_of(path)) == pytest.approx([0, 1, 2, 3, 4, 4, 4, 4], abs=4)


def write_sound(path: Path, *, seconds: float, start: float = 0.0, layout: str = "mono", codec: str = "mp2") -> Path:
    """A tone at 48 kHz whose clock begins at ``start``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout=layout)
        tone = np.sin(np.arange(round(seconds * 48_000)) * 2 * np.pi * 440 / 48_000).astype(np.float32)
        channels = len(stream.layout.channels)
        frame = av.AudioFrame.from_ndarray(np.tile(tone, (channels, 1)), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = 48_000, round(start * 48_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("seconds", [4.0, 130.0])
def test_a_recorded_broadcast_does_not_start_at_zero(tmp_path: Path, seconds: float):
    path = write_sound(tmp_path / "broadcast.ts", seconds=seconds, start=40_000.0)
    streams = inspect(path)
    assert streams.sound_start == pytest.approx(40_000, abs=3)
    assert streams.sound_end - streams.sound_start == pytest.approx(seconds, abs=0.1)
    windows = read_sound_windows(path, streams, 4, 2.0)
    assert windows.abs().amax(1).tolist() == pytest.approx([1.0] * 4, abs=0.1)


@pytest.mark.parametrize("pause", [20.0, 200.0])
def test_sound_that_pauses_as_in_a_call_is_no_damage(tmp_path: Path, pause: float):
    path = tmp_path / "call.mka"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for second in (*range(4), *range(4 + round(pause), 8 + round(pause))):
            frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 16_384, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, second * 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    streams = inspect(path)
    assert (streams.sound_end, streams.sound_seconds) == (pytest.approx(8 + pause, abs=0.1), pytest.approx(8, abs=0.1))
    assert streams.notes == (f"its sound pauses, or is lost in places: 8 of {8 + pause:.0f} s are there",)
    assert read_sound_windows(path, streams, 4, 2.0).mean(1).tolist() == pytest.approx([0.5] * 4, abs=0.01)


def damaged(path: Path, fraction: float) -> Path:
    content = bytearray(path.read_bytes())
    first, last = len(content) // 10, int(len(content) * (0.1 + fraction))
    content[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(bytes(content))
    return path


def test_a_packet_of_sound_that_cannot_be_decoded_is_passed_over(tmp_path: Path):
    path = damaged(write_sound(tmp_path / "clip.mp3", seconds=20.0, codec="libmp3lame"), 0.02)
    assert read_sound_windows(path, inspect(path), 4, 2.0).abs().amax(1).tolist() == pytest.approx([1.0] * 4, abs=0.2)


def test_sound_that_is_damaged_all_over_is_refused(tmp_path: Path):
    path = damaged(write_sound(tmp_path / "clip.m4a", seconds=20.0, codec="aac"), 0.5)
    with pytest.raises(MediaError, match=r"only \d+\.\d of \d+\.\d seconds of its sound can be decoded"):
        read_sound_windows(path, inspect(path), 4, 2.0)


def test_sound_that_is_lost_is_noted(tmp_path: Path):
    path = damaged(write_sound(tmp_path / "clip.mka", seconds=20.0, codec="flac"), 0.5)
    assert inspect(path).notes == (
        f"its sound pauses, or is lost in places: {inspect(path).sound_seconds:.0f} of 20 s are there",
    )
    assert read_sound_windows(path, inspect(path), 4, 2.0).isfinite().all()


def test_channels_may_change_and_absurd_ones_are_refused():
    frames = [
        av.AudioFrame.from_ndarray(np.full((channels, 8), value, np.float32), format="fltp", layout=layout)
        for channels, value, layout in ((2, 0.5, "stereo"), (6, 0.25, "5.1"), (1, 1.0, "mono"))
    ]
    for frame in frames:
        frame.sample_rate = 16_000
    mixed = mix_down(frames)
    assert mixed[:8].tolist() == [0.5] * 8
    assert mixed[8:16] == pytest.approx(0.25 * (1 + 2 * 0.5**0.5 + 2 * 0.5))  # all but the subwoofer
    assert mixed[16:].tolist() == [1.0] * 8
    claimed = av.AudioFrame.from_ndarray(np.zeros((1, 128), np.float32), format="flt", layout="hexadecagonal")
    with pytest.raises(ValueError, match="16 channels"):
        mix_down([claimed])
