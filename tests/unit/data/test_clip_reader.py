"""One file through training and through ``predict``: the same frames, crops and windows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from affectgpt_r1.data.clip_reader import read_full_frames, read_pictures, resize_found_faces
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.media.faces import Person
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.inference import read_file as prediction
from affectgpt_r1.inference.read_file import read_clip
from helpers.films import with_display_matrix

SIZE = 24


def media(**changes) -> MediaSettings:
    return MediaSettings(**{"visual": "frame", "num_frames": 4, "image_size": SIZE, "num_windows": 3, **changes})


def both(path: Path, settings: MediaSettings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames and windows as training reads the file, and as ``predict`` does."""
    root = path.parent / "root"
    (root / "video").mkdir(parents=True, exist_ok=True)
    shutil.copy(path, root / "video" / "clip.mp4")
    trained = ClipDataset([ManifestRow("clip", ())], root, settings, seed=0)[SampleKey(0, 0)]
    predicted, _ = read_clip(path, "", settings, "centre")
    return trained.frames, predicted.frames, trained.waveform, predicted.waveform


def oblong(path: Path, aspect: Fraction) -> Path:
    """A clip of 64 x 48 stored pixels, the left half bright, each pixel ``aspect`` times as wide as high."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 250
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rule", ["crop", "squash"])
@pytest.mark.parametrize("windows", ["even", "published"])
def test_an_ordinary_clip_is_read_alike(write_video, tmp_path: Path, rule: str, windows: str):
    path = write_video(tmp_path / "clip.mp4", sound=True)
    trained, predicted, heard, heard_by_predict = both(path, media(frame_resize=rule, windows=windows))
    assert trained.shape == (4, 3, SIZE, SIZE)
    assert torch.equal(trained, predicted)
    assert heard.shape == (3, 32_000)
    assert torch.equal(heard, heard_by_predict)


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("rule", ["crop", "squash"])
@pytest.mark.parametrize(
    ("across", "down", "red"),
    [((0, 1), (-1, 0), "right"), ((-1, 0), (0, -1), "bottom"), ((0, -1), (1, 0), "left"), ((1, 0), (0, -1), "bottom")],
    ids=["90", "180", "270", "upside down"],
)
def test_a_phones_clip_is_upright_in_training(write_video, tmp_path: Path, across, down, red, rule, decoder):
    path = with_display_matrix(write_video(tmp_path / "phone.mp4"), across, down)
    settings = media(frame_resize=rule, decoder=decoder, modalities=("video",))
    trained, predicted, *_ = both(path, settings)
    assert torch.equal(trained, predicted)
    at = {"bottom": (-4, 12), "left": (12, 3), "right": (12, -4)}
    opposite = {"bottom": (3, 12), "left": (12, -4), "right": (12, 3)}
    assert int(trained[0, 0][at[red]]) > 150 > 60 > int(trained[0, 0][opposite[red]])


@pytest.mark.parametrize(("aspect", "bright"), [(Fraction(1), 12), (Fraction(1, 2), 12), (Fraction(3, 4), 12)])
def test_oblong_pixels_are_square_in_training(tmp_path: Path, aspect: Fraction, bright: int):
    """At 1:2 the picture is 32 x 48 and is cropped above and below; as stored it would be cropped at the sides."""
    path = oblong(tmp_path / "disc.mp4", aspect)
    trained, predicted, *_ = both(path, media(modalities=("video",)))
    assert torch.equal(trained, predicted)
    assert read_pictures(path, media())[0].shape == (48, round(64 * aspect), 3)
    assert int((trained[0, 0, 12] > 125).sum()) == bright


def test_a_large_picture_is_read_alike(write_video, tmp_path: Path):
    path = write_video(tmp_path / "large.mp4", [0.0, 0.1, 0.2], size=(1920, 1080))
    trained, predicted, *_ = both(path, media(modalities=("video",)))
    assert torch.equal(trained, predicted)
    assert read_pictures(path, media())[0].shape == (720, 1280, 3)


@pytest.mark.parametrize("rule", ["even", "published"])
def test_a_long_clip_is_sought_and_read_alike(write_wave, tmp_path: Path, rule: str):
    path = write_wave(tmp_path / "ramp.wav", 200.0)  # its amplitude rises with time
    (tmp_path / "root" / "audio").mkdir(parents=True)
    shutil.copy(path, tmp_path / "root" / "audio" / "clip.wav")
    settings = media(modalities=("audio",), windows=rule)
    trained = ClipDataset([ManifestRow("clip", ())], tmp_path / "root", settings, seed=0)[SampleKey(0, 0)]
    predicted, _ = read_clip(path, "", settings, "centre")
    assert torch.equal(trained.waveform, predicted.waveform)
    assert (trained.waveform.mean(1).abs() < 1e-6).tolist() == [rule == "published"] * 3


def test_found_faces_have_the_channels_that_the_weights_saw(write_video, tmp_path: Path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4")  # red on top
    monkeypatch.setattr(prediction, "track_people", lambda pictures: [Person(dict.fromkeys(range(3), (0, 0, 12, 12)))])
    for order, red in (("bgr", 0), ("rgb", 2)):
        settings = media(visual="face", channel_order=order, modalities=("video",))
        crops = read_clip(path, "", settings, "detect")[0].frames
        assert int(crops[0, red].min()) > 180 > 60 > int(crops[0, 2 - red].max())


def test_found_faces_follow_the_rule_of_resizing():
    crop = np.zeros((9, 9, 3), np.uint8)
    crop[:, ::3] = 90
    settings = {"image_size": 3, "channel_order": "bgr"}
    assert resize_found_faces([crop], MediaSettings(face_resize="cv2", **settings)).max() == 0
    assert resize_found_faces([crop], MediaSettings(**settings)).max() > 0


def test_a_still_is_squashed_or_cropped(write_video, tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", size=(96, 48))
    squashed = read_full_frames(path, media(visual="image", frame_resize="squash"))
    cropped = read_full_frames(path, media(visual="image"))
    assert squashed.shape == cropped.shape == (1, 3, SIZE, SIZE)
    still = read_pictures(path, media())[2]
    from PIL import Image

    expected = Image.fromarray(still).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.array_equal(squashed[0].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_predict_follows_the_decoder(write_video, tmp_path: Path):
    path = with_display_matrix(
        write_video(tmp_path / "phone.mp4"), (-1, 0), (0, 1)
    )  # mirrored: decord turns it by half
    settings = media(frame_resize="squash", image_size=224)
    shown = {
        decoder: read_clip(path, "", replace(settings, decoder=decoder), "centre")[0].frames
        for decoder in ("auto", "pyav", "decord")
    }
    assert torch.equal(shown["auto"], shown["pyav"])
    assert not torch.equal(shown["auto"], shown["decord"])


def test_an_empty_subtitle_is_kept_where_the_rule_says_so(write_video, tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4")
    omitted, notes = read_clip(path, "", media(), "centre")
    kept, kept_notes = read_clip(path, "", media(empty_subtitle="keep"), "centre")
    assert (omitted.modalities, kept.modalities) == (("video",), ("video", "text"))
    assert "answered without text" in notes[-1]
    assert kept_notes == ["answered without audio, which the file does not have"]
