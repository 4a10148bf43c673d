"""Crops follow one person; the detector itself is replaced, its real use is measured in docs/data.md."""

from __future__ import annotations

import numpy as np
import pytest

from affectgpt_r1.data.prepare.crops import _followed, _likely, write_crops


class Detector:
    """Say what a picture of :func:`write_mp4` shows, by how gray it is; padded pictures are larger."""

    def __init__(self, faces):
        self.faces = faces

    def detect(self, picture):
        height = picture.shape[0]
        inside = picture[height // 4 : -(height // 4), height // 2 : -(height // 4)]
        return self.faces(round(float(inside.mean()) / 8), (height - 32) // 2)


@pytest.mark.parametrize(("place", "faces"), [(4, 4), (-20, 3)])
def test_a_less_probable_face_counts_in_the_place_of_a_sure_one(tmp_path, write_mp4, monkeypatch, place, faces):
    def found(frame, edge):
        if frame != 2:  # sure
            return np.array([[4, 4, 24, 24]]) + edge, np.array([0.99])
        box = np.array([[place, 4, place + 20, 24]]) + edge
        return (box, np.array([0.75])) if edge else (None, [None])

    monkeypatch.setattr("affectgpt_r1.data.media.faces._detector", lambda: Detector(found))
    monkeypatch.setattr("affectgpt_r1.data.prepare.crops.SAME_LOOK", 2.0)  # not by looks, which all frames share
    video = write_mp4(tmp_path / "a.mp4", 4)
    assert write_crops(video, tmp_path / "a.npy", 8, "detect") == (4, faces, 1)
    crops = np.load(tmp_path / "a.npy")
    assert (crops.shape, crops.dtype) == ((faces, 112, 112, 3), np.uint8)


@pytest.mark.parametrize(("seen", "faces"), [((1, 2), 4), ((1,), 0)])
def test_without_a_sure_face_two_likely_ones_in_one_place_are_a_person(tmp_path, write_mp4, monkeypatch, seen, faces):
    def found(frame, edge):
        box = np.array([[4, 4, 24, 24]]) + edge
        return (box, np.array([0.75])) if edge and frame in seen else (None, [None])

    monkeypatch.setattr("affectgpt_r1.data.media.faces._detector", lambda: Detector(found))
    video = write_mp4(tmp_path / "a.mp4", 4)
    assert write_crops(video, tmp_path / "a.npy", 8, "detect") == (4, faces, min(1, faces))


def test_a_face_is_followed_where_its_place_looks_the_same(monkeypatch):
    monkeypatch.setattr("affectgpt_r1.data.media.faces._detector", lambda: Detector(lambda *_: (None, [None])))
    random = np.random.default_rng(0)
    person, other = (random.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(2))
    dimmed = (person * 0.9).astype(np.uint8)
    box = (4.0, 4.0, 24.0, 24.0)
    assert _followed([person, dimmed, other], {0: box}) == {0: box, 1: box}


def test_a_face_of_the_mirror_image_is_placed_in_the_picture(monkeypatch):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16] = 200
    face = (26.0, 10.0, 40.0, 24.0)  # of the picture with a border of 8 pixels
    found = lambda padded, least: [face] if padded[24, 30, 0] == 200 else []  # noqa: E731
    monkeypatch.setattr("affectgpt_r1.data.prepare.crops.find_faces", found)
    assert _likely(picture) == [(0.0, 2.0, 14.0, 16.0)]
    assert _likely(picture[:, ::-1]) == [(18.0, 2.0, 32.0, 16.0)]


def test_nothing_is_written_without_a_face(tmp_path, write_mp4, monkeypatch):
    monkeypatch.setattr("affectgpt_r1.data.media.faces._detector", lambda: Detector(lambda *_: (None, [None])))
    assert write_crops(write_mp4(tmp_path / "a.mp4", 2), tmp_path / "a.npy", 8, "detect") == (2, 0, 0)
    assert not (tmp_path / "a.npy").exists()
