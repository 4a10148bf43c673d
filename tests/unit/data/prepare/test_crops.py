"""Crops follow one person; the detector itself is replaced, its real use is measured in docs/data.md."""

from __future__ import annotations

import numpy as np
import pytest

from affectgpt_r1.data.prepare.crops import write_crops


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
    video = write_mp4(tmp_path / "a.mp4", 4)
    assert write_crops(video, tmp_path / "a.npy", 8, "detect") == (4, faces, 1)
    crops = np.load(tmp_path / "a.npy")
    assert (crops.shape, crops.dtype) == ((faces, 112, 112, 3), np.uint8)


def test_nothing_is_written_without_a_face(tmp_path, write_mp4, monkeypatch):
    monkeypatch.setattr("affectgpt_r1.data.media.faces._detector", lambda: Detector(lambda *_: (None, [None])))
    assert write_crops(write_mp4(tmp_path / "a.mp4", 2), tmp_path / "a.npy", 8, "detect") == (2, 0, 0)
    assert not (tmp_path / "a.npy").exists()
