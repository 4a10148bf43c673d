"""Two clips, and what AffectGPT's published loader makes of them: through training and through ``predict``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from affectgpt_r1.data.clip_reader import read_full_frames
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.media.faces import Person
from affectgpt_r1.data.media.video import read_face_crops
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.inference import read_file as prediction
from affectgpt_r1.inference.read_file import read_clip
from affectgpt_r1.types import Visual

FIXTURES = Path(os.environ.get("AFFECTGPT_FIXTURES", "")) / "fixtures" / "affectgpt_media"

pytestmark = pytest.mark.skipif(
    not (FIXTURES / "expected.npz").is_file(),
    reason="AFFECTGPT_FIXTURES names no folder with fixtures/affectgpt_media and the published loader's output",
)

CLIPS = ("clip_a", "clip_c")  # 5.3 seconds at 320 x 180; 0.8 seconds and five frames at 240 x 240


def published(visual: Visual = "both", **changes) -> MediaSettings:
    rules = {"windows": "published", "frame_resize": "squash", "face_resize": "cv2", "channel_order": "rgb"}
    return MediaSettings(visual=visual, empty_subtitle="keep", **{**rules, **changes})


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "expected.npz") as arrays:
        return dict(arrays)


def pixels(frames: torch.Tensor) -> np.ndarray:
    return frames.permute(0, 2, 3, 1).numpy()


def test_training_reads_what_the_published_loader_reads(expected):
    clips = ClipDataset([ManifestRow(name, ("happy",)) for name in CLIPS], FIXTURES, published(), seed=0)
    for index, name in enumerate(CLIPS):
        clip = clips[SampleKey(index, 0)]
        assert np.array_equal(pixels(clip.frames), expected[f"{name}/face"])
        assert np.array_equal(pixels(clip.context_frames), expected[f"{name}/frame"])
        assert np.abs(clip.waveform.numpy() - expected[f"{name}/windows"]).max() <= 1e-6


@pytest.mark.parametrize("name", CLIPS)
def test_predict_reads_what_the_published_loader_reads(expected, monkeypatch, name: str):
    film, _ = read_clip(FIXTURES / "video" / f"{name}.mp4", None, published("frame"), "centre")
    assert np.array_equal(pixels(film.frames), expected[f"{name}/frame"])
    assert (film.modalities, film.subtitle) == (("video", "text"), "")  # the clips' sound is a file of its own
    sound, _ = read_clip(FIXTURES / "audio" / f"{name}.wav", "", published(), "centre")
    assert np.abs(sound.waveform.numpy() - expected[f"{name}/windows"]).max() <= 1e-6
    # A detector that finds OpenFace's crops, in RGB as pictures are, gives what the weights saw: their BGR.
    found = read_face_crops(FIXTURES / "openface_face" / name / f"{name}.npy", 8, "bgr")
    monkeypatch.setattr(prediction, "track_people", lambda pictures: [Person(dict.fromkeys(range(8), (0, 0, 9, 9)))])
    crops = iter(found)
    monkeypatch.setattr(prediction, "crop_face", lambda picture, box: next(crops))
    faces, _ = read_clip(FIXTURES / "video" / f"{name}.mp4", None, published("face"), "detect")
    assert np.array_equal(pixels(faces.frames), expected[f"{name}/face"])


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_every_decoder_squashes_to_the_same_bytes(expected, decoder: str):
    frames = read_full_frames(FIXTURES / "video" / "clip_a.mp4", published("frame", decoder=decoder))
    assert np.array_equal(pixels(frames), expected["clip_a/frame"])


def test_our_rules_read_otherwise(expected):
    frames = read_full_frames(FIXTURES / "video" / "clip_a.mp4", published("frame", frame_resize="crop"))
    assert np.abs(pixels(frames).astype(int) - expected["clip_a/frame"]).mean() > 5
