"""Face crops; the detector itself is tried on a drawn face and on noise, its real use is `predict` on real files."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from affectgpt_r1.data.media.faces import _detector, centre_square, face_crops
from affectgpt_r1.errors import ConfigError


def test_the_centre_square():
    picture = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    assert (centre_square(picture) == picture[:, 2:6]).all()
    assert (centre_square(picture.transpose(1, 0, 2)) == picture.transpose(1, 0, 2)[2:6]).all()


def test_noise_has_no_face():
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    assert face_crops([noise]) == [None]


def test_pictures_too_small_or_too_narrow_for_a_face():
    assert face_crops([np.zeros((16, 16, 3), np.uint8), np.zeros((900, 24, 3), np.uint8)]) == [None, None]


def test_a_large_thing_that_is_hardly_a_face_does_not_hide_a_smaller_face(monkeypatch: pytest.MonkeyPatch):
    class Detector:
        def detect(self, picture):
            return np.array([[0, 0, 100, 100], [120, 40, 140, 60], [10, 10, 15, 15]]), np.array([0.75, 0.99, 0.99])

    monkeypatch.setattr("affectgpt_r1.data.media.faces._detector", Detector)
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[37:63, 117:143] = 200  # the smaller face and its margin
    crop = face_crops([picture])[0]
    assert crop.shape == (26, 26, 3)
    assert (crop == 200).all()


def test_a_missing_detector_names_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    _detector.cache_clear()
    with pytest.raises(ConfigError, match="--no-deps facenet-pytorch"):
        face_crops([np.zeros((60, 60, 3), np.uint8)])
    _detector.cache_clear()
