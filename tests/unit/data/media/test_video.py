import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.data.media import video
from affectgpt_r1.data.media.video import (
    DecordDecoder,
    read_face_crops,
    read_frames,
    resize_faces,
    resize_frames,
    uniform_indices,
)
from affectgpt_r1.errors import ConfigError, MediaError


@pytest.mark.parametrize(
    ("num_frames", "indices"),
    [
        (100, [0, 12, 25, 37, 50, 62, 75, 87]),
        (24, [0, 3, 6, 9, 12, 15, 18, 21]),
        (9, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, [0, 1, 2, 2, 2, 2, 2, 2]),
        (1, [0] * 8),
    ],
)
def test_published_frame_indices(num_frames, indices):
    assert uniform_indices(num_frames) == indices


@given(num_frames=st.integers(1, 2000), count=st.sampled_from([1, 2, 4, 8, 16]))
def test_indices_follow_the_published_formula(num_frames, count):
    distinct = min(count, num_frames)
    published = np.floor(np.arange(distinct) * (num_frames / distinct)).astype(int).tolist()
    assert uniform_indices(num_frames, count)[:distinct] == published
    assert len(uniform_indices(num_frames, count)) == count


@pytest.mark.parametrize("decoder", ["decord", "pyav", "auto"])
def test_frames_are_rgb_and_in_order(tmp_path, write_mp4, decoder):
    frames = read_frames(write_mp4(tmp_path / "a.mp4", num_frames=24), 8, decoder)
    assert frames.shape == (8, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert np.abs(frames[:, 16, 26].mean(-1) - 8 * np.arange(0, 24, 3)).max() < 6
    assert np.abs(frames[0, 16, 6].astype(int) - (200, 20, 20)).max() < 25


def test_both_decoders_agree(tmp_path, write_mp4):
    path = write_mp4(tmp_path / "a.mp4", num_frames=40)
    difference = read_frames(path, 8, "decord").astype(int) - read_frames(path, 8, "pyav")
    assert np.abs(difference).max() <= 4


@pytest.mark.parametrize("num_frames", [1, 2, 5, 9])
def test_short_clips_repeat_their_last_frame(tmp_path, write_mp4, num_frames):
    frames = read_frames(write_mp4(tmp_path / "a.mp4", num_frames=num_frames))
    grays = frames[:, 16, 26].mean(-1)
    assert np.abs(grays - 8 * np.array(uniform_indices(num_frames))).max() < 6


def test_decord_is_never_asked_for_the_last_frames(tmp_path, write_mp4):
    path = write_mp4(tmp_path / "a.mp4", num_frames=24)
    assert DecordDecoder(path).get_frames([21]).shape == (1, 32, 32, 3)
    for index in (22, 23, 24, 10_000):
        with pytest.raises(MediaError, match="not trusted with the last 2 frames"):
            DecordDecoder(path).get_frames([0, index])


def test_what_decord_refuses_pyav_reads(tmp_path, write_mp4, monkeypatch):
    path = write_mp4(tmp_path / "a.mp4")

    class Refusing:
        def __init__(self, path):
            raise MediaError(f"{path}: refused")

    monkeypatch.setitem(video.DECODERS, "auto", (Refusing, video.PyAVDecoder))
    assert np.array_equal(read_frames(path), read_frames(path, decoder="pyav"))


def test_a_platform_without_decord_reads_by_pyav(tmp_path, write_mp4, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    path = write_mp4(tmp_path / "a.mp4")
    assert read_frames(path).shape == (8, 32, 32, 3)
    with pytest.raises(ConfigError, match=r"data\.decoder=pyav"):
        read_frames(path, decoder="decord")


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.8])
def test_truncated_mp4(tmp_path, write_mp4, kept):
    content = write_mp4(tmp_path / "full.mp4", num_frames=48, sound=False).read_bytes()
    path = tmp_path / "a.mp4"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(MediaError, match=r"a\.mp4"):
        read_frames(path)


@pytest.mark.parametrize("content", [b"", b"This is a text file.\n" * 50])
def test_text_or_nothing_named_mp4(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.mp4: cannot be read as video or sound"):
        read_frames(path)


def test_mp4_without_picture_and_missing_mp4(tmp_path, write_mp4):
    with pytest.raises(MediaError, match=r"a\.mp4: has no video stream"):
        read_frames(write_mp4(tmp_path / "a.mp4", picture=False))
    with pytest.raises(MediaError, match=r"b\.mp4: no such file"):
        read_frames(tmp_path / "b.mp4")


def test_unknown_decoder(tmp_path):
    with pytest.raises(ConfigError, match="decord, pyav, auto"):
        read_frames(tmp_path / "a.mp4", decoder="opencv")


def test_face_crops_become_rgb_by_the_channel_order(tmp_path):
    stored = np.arange(10, dtype=np.uint8)[:, None, None, None] + np.array([0, 50, 100], np.uint8)
    stored = np.broadcast_to(stored, (10, 4, 4, 3))
    np.save(tmp_path / "a.npy", stored)
    bgr = read_face_crops(tmp_path / "a.npy", channel_order="bgr")
    rgb = read_face_crops(tmp_path / "a.npy", channel_order="rgb")
    assert rgb.shape == (8, 4, 4, 3)
    assert rgb[:, 0, 0].tolist() == [[i, i + 50, i + 100] for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert np.array_equal(bgr, rgb[..., ::-1])


@pytest.mark.parametrize(
    "crops", [np.zeros((3, 4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_face_crops(tmp_path, crops):
    np.save(tmp_path / "a.npy", crops)
    with pytest.raises(MediaError, match=r"a\.npy: face crops must be uint8"):
        read_face_crops(tmp_path / "a.npy")


def test_files_that_are_no_arrays(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("text")
    np.savez(tmp_path / "archive.npz", np.zeros((3, 4, 4, 3), np.uint8))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    for name in ("pickled", "empty", "text", "missing", "archive"):
        with pytest.raises(MediaError, match=rf"{name}\.npy: cannot be read"):
            read_face_crops(tmp_path / f"{name}.npy")


def test_faces_are_scaled_straight_and_frames_cropped():
    wide = np.zeros((2, 40, 80, 3), np.uint8)
    wide[:, :, 14:66] = 200
    faces, frames = resize_faces(wide, 20), resize_frames(wide, 20)
    assert faces.shape == frames.shape == (2, 3, 20, 20)
    assert faces.dtype == frames.dtype == torch.uint8
    assert faces[0, 0, 10, [0, 7, 12, 19]].tolist() == [0, 200, 200, 0]
    assert frames.unique().tolist() == [200]


def test_a_frame_twice_as_wide_is_scaled_to_just_that(monkeypatch):
    sizes = set()
    monkeypatch.setattr(video.F, "interpolate", lambda pixels, size, **options: sizes.add(size) or pixels)
    for height in (47, 94, 96, 147, 173):  # 94 * (48 / 47) is 95.99... in floating point
        resize_frames(np.zeros((1, height, 2 * height, 3), np.uint8), 48)
    assert sizes == {(48, 96)}


def test_upscaled_faces_are_bilinear():
    crops = np.array([[[[0] * 3, [100] * 3], [[100] * 3, [200] * 3]]], np.uint8)
    assert resize_faces(crops, 4)[0, 0].tolist() == [
        [0, 25, 75, 100],
        [25, 50, 100, 125],
        [75, 100, 150, 175],
        [100, 125, 175, 200],
    ]


def test_faces_are_scaled_by_opencvs_arithmetic():
    """Worked by hand in its fixed point; the published loader's own crops are in test_published_media.py."""
    row = np.array([0, 100, 200, 50], np.uint8)
    crops = np.broadcast_to(row[None, None, :, None], (1, 4, 4, 3)).copy()
    assert resize_faces(crops, 2, "cv2")[0, 0].tolist() == [[50, 125], [50, 125]]
    assert resize_faces(crops, 8, "cv2")[0, 0, 3].tolist() == [0, 25, 75, 125, 175, 162, 87, 50]  # 162.5 and 87.5 cut
    stripes = np.zeros((1, 9, 9, 3), np.uint8)
    stripes[:, :, ::3] = 90  # every third column: sampled at 1, 4, 7 none is seen, averaged all are
    assert resize_faces(stripes, 3, "cv2").unique().tolist() == [0]
    assert resize_faces(stripes, 3, "antialias").unique().tolist() != [0]


def test_a_still_is_squashed_by_pillow():
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    expected = Image.fromarray(picture).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(video.squash_still(picture, 16), np.asarray(expected))
