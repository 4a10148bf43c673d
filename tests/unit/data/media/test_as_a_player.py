"""Films as a player shows them: sound tracks, surround sound, HDR, interlaced pictures, parts of a long file."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from affectgpt_r1.data.clip_reader import read_full_frames, read_pictures, read_sound
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.media.any_media import (
    picture_seconds,
    read_sound_windows,
    read_uniform_frames,
    sound_window_starts,
)
from affectgpt_r1.data.media.audio import read_waveform
from affectgpt_r1.data.media.containers import inspect
from affectgpt_r1.errors import MediaError

MEDIA = MediaSettings(num_frames=2, image_size=16, num_windows=2)


def tone(hertz: float, seconds: float = 2.0) -> np.ndarray:
    return 0.25 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000).astype(np.float32)


def write_tracks(path: Path, tracks: Mapping[str, Sequence[np.ndarray]], default: str) -> Path:
    """Write sound tracks by language, of one or six channels."""
    with av.open(str(path), "w") as container:
        streams = {}
        for language, channels in tracks.items():
            layout = {1: "mono", 6: "5.1"}[len(channels)]
            stream = streams[language] = container.add_stream("pcm_s16le", rate=16_000, layout=layout)
            stream.metadata["language"] = language
            stream.disposition = av.stream.Disposition.default if language == default else 0
        for language, channels in tracks.items():
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray((np.stack(channels, 1) * 32767).astype("<i2").reshape(1, -1)),
                format="s16",
                layout=streams[language].codec_context.layout.name,
            )
            frame.sample_rate = 16_000
            for packet in (*streams[language].encode(frame), *streams[language].encode(None)):
                container.mux(packet)
    return path


def pitch(waveform: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(waveform.flatten()[:16_000]).abs()
    return float(spectrum.argmax())


def test_the_default_sound_track_is_heard_or_the_one_that_is_named(tmp_path: Path):
    path = write_tracks(tmp_path / "film.mkv", {"eng": [tone(300)], "jpn": [tone(700)]}, default="jpn")
    assert inspect(path).notes == ("heard is sound track 2 of 2 (jpn)",)
    assert pitch(read_sound(path, MEDIA, inspect(path))) == 700
    assert pitch(read_sound(path, MEDIA)) == 700
    for name in ("1", "eng"):
        streams = inspect(path, audio_track=name)
        assert (streams.audio_track, streams.notes) == (1, ("heard is sound track 1 of 2 (eng)",))
        assert pitch(read_sound(path, MEDIA, streams)) == 300
        assert pitch(read_sound_windows(path, streams._replace(is_part=True), 2, 1.0)) == 300
    with pytest.raises(MediaError, match=r"it has no sound track deu; its tracks: 1 \(eng\), 2 \(jpn\)$"):
        inspect(path, audio_track="deu")


@pytest.mark.parametrize("name", ["film.mkv", "film.wav"])
def test_of_surround_sound_the_centre_keeps_its_level(tmp_path: Path, name: str):
    """Left and right are 3 dB below it, and the subwoofer is left out; the mean would lower what is said to a sixth."""
    hertz = (200, 300, 500, 90, 700, 1100)  # left, right, centre, subwoofer, back
    channels = [tone(rate) for rate in hertz]
    if name.endswith("wav"):
        path = tmp_path / name
        soundfile.write(path, np.stack(channels, 1), 16_000, format="WAVEX")
    else:
        path = write_tracks(tmp_path / name, {"eng": channels}, "eng")
    assert any("sound is mixed down to one channel" in note for note in inspect(path).notes)
    waveform, rate = read_waveform(path)
    spectrum = np.abs(np.fft.rfft(waveform[:16_000])) / 8_000 / 0.25
    levels = {rate: round(float(spectrum[rate]), 2) for rate in hertz}
    assert rate == 16_000
    assert levels[500] == 1.0
    assert (levels[200], levels[300], levels[90]) == (0.71, 0.71, 0.0)
    assert levels[700] == levels[1100] == pytest.approx(0.5, abs=0.01)


def write_frames(path: Path, frames: Sequence[av.VideoFrame], codec: str, pixels: str, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixels
        stream.codec_context.color_trc = frames[0].color_trc
        stream.codec_context.color_primaries = frames[0].color_primaries
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("transfer", "white", "skin"), [(16, 0.5807, 0.45), (18, 0.75, 0.5)])
def test_hdr_is_tone_mapped(tmp_path: Path, transfer: int, white: float, skin: float):
    """HDR's reference white is near white, and what is darker than a half of it keeps its light.

    0.5807 is 203 nits in PQ, and 0.45 is 55; HLG's 75 % is 203 nits on a display of 1000, and its 50 % is 51.
    """
    signal = np.zeros((32, 48, 3), np.uint16)
    signal[:, :16], signal[:, 16:32] = round(65535 * white), round(65535 * skin)
    frame = av.VideoFrame.from_ndarray(signal, format="rgb48le")
    frame.color_trc, frame.color_primaries = transfer, 9
    path = write_frames(tmp_path / "film.mkv", [frame, frame], "ffv1", "gbrp10le")
    streams = inspect(path)
    assert streams.notes[0] == f"its pictures are HDR ({'PQ' if transfer == 16 else 'HLG'}) and are tone-mapped"
    picture = read_pictures(path, MEDIA, streams)[0]
    nits = 55 if transfer == 16 else 51
    assert picture[16, 8].tolist() == pytest.approx([231] * 3, abs=6)
    assert picture[16, 24].tolist() == pytest.approx([255 * (nits / 203) ** (1 / 2.2)] * 3, abs=5)
    assert picture[16, 40].max() < 3
    squashed = MediaSettings(num_frames=2, image_size=16, frame_resize="squash")
    assert int(read_full_frames(path, squashed, streams)[0, 0, 8, 2]) == pytest.approx(231, abs=6)


def test_interlaced_pictures_are_deinterlaced(tmp_path: Path):
    """A bar that moves between the two fields of a frame shows as a comb; one field has it in one place."""
    comb = np.full((64, 64, 3), 20, np.uint8)
    comb[::2, 8:24], comb[1::2, 32:48] = 220, 220
    frames = [av.VideoFrame.from_ndarray(comb, format="rgb24") for _ in range(3)]
    options = {"flags": "+ilme+ildct", "b": "4000000", "top": "1", "g": "1"}
    path = write_frames(tmp_path / "film.ts", frames, "mpeg2video", "yuv420p", **options)
    streams = inspect(path)
    assert streams.notes[0] == "its pictures are interlaced and are deinterlaced"
    for picture in (read_pictures(path, MEDIA, streams)[0], read_pictures(path, MEDIA)[0]):
        rows = picture[8:56, :, 1].astype(int)
        assert np.abs(np.diff(rows, axis=0)).mean() < 2  # the comb has 100
        assert (rows.max(0) > 180).sum() in range(12, 21)


def test_a_part_of_a_long_file(write_video, tmp_path: Path):
    path = write_video(tmp_path / "long.mkv", [index / 2 for index in range(200)], sound=True)
    whole = inspect(path)
    part = whole.between(40.0, 60.0)
    assert (whole.start, whole.end) == (0.0, 99.5)
    assert (part.has_video, part.has_audio) == (True, False)
    assert picture_seconds(part, 4) == [40.0, 45.0, 50.0, 55.0]
    frames = read_uniform_frames(path, part, 4)
    assert [int(frame[36, 32].mean()) for frame in frames] == pytest.approx([80, 90, 100, 110], abs=4)
    start = whole.between(0.0, 1.5)
    assert sound_window_starts(start, 2, 1.0) == pytest.approx([whole.sound_start, whole.sound_start + 0.5], abs=0.03)
    assert read_sound_windows(path, start, 2, 1.0).shape == (2, 16_000)


def test_what_is_odd_about_lengths_is_noted(write_video, tmp_path: Path):
    single = write_video(tmp_path / "single.mp4", [0.0], sound=True)
    assert inspect(single).notes == ("its picture is a single frame",)
    short = write_video(tmp_path / "short.mp4", [0.0, 0.1, 0.2], sound=True)
    assert [note.partition(":")[0] for note in inspect(short).notes] == ["its sound is longer than its pictures"]


@pytest.fixture
def strangers() -> Path:
    """Return the folder of films and sound that nobody of this project made."""
    spec = importlib.util.find_spec("gradio")
    folder = Path(spec.origin).parent / "media_assets" if spec and spec.origin else Path()
    if not (folder / "videos" / "b.mp4").is_file():
        pytest.skip("its files come with gradio (extra app), which is not installed")
    return folder


def test_frames_of_a_strangers_film_are_those_of_decoding_it_whole(strangers):
    film = strangers / "videos" / "b.mp4"
    with av.open(str(film)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    pictures = read_uniform_frames(film, inspect(film), 4)
    for picture, index in zip(pictures, (0, 37, 75, 112), strict=True):  # of 150
        assert np.abs(picture.astype(int) - frames[index]).mean() < 0.5


def test_levels_of_a_strangers_sound_are_those_of_decoding_it_whole(strangers):
    path = strangers / "audio" / "cate_blanch.mp3"
    with av.open(str(path)) as container:
        mono = av.AudioResampler("flt", "mono", 16_000)  # FFmpeg's own
        frames = [part for frame in container.decode(audio=0) for part in mono.resample(frame)]
    sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    streams = inspect(path)
    windows = read_sound_windows(path, streams, 4, 1.0)
    for window, start in zip(windows, sound_window_starts(streams, 4, 1.0), strict=True):
        begin = round((start - streams.sound_start) * 16_000)
        level = np.sqrt((sound[begin : begin + 16_000] ** 2).mean())
        assert 20 * np.log10(float(window.square().mean().sqrt()) / level) == pytest.approx(0.0, abs=0.25)  # of filters
