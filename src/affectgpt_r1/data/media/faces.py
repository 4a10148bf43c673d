"""Find faces in pictures. Only this module imports facenet-pytorch, whose wheel holds the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from affectgpt_r1.data.media.video import Frames
from affectgpt_r1.errors import ConfigError

LEAST_PROBABILITY = 0.9  # below it MTCNN finds faces in leaves and clouds
MARGIN = 0.15  # of a face's size, kept around it, about as in OpenFace's crops
LONGEST_EDGE = 480  # pictures are searched at this size, in which a face whose emotion can be read is still large
SMALLEST_FACE = 20  # pixels; MTCNN finds none smaller, and fails on a picture that could not hold one


def face_crops(pictures: Sequence[Frames]) -> list[Frames | None]:
    """Crop the largest face of each picture ``(H, W, 3)`` uint8 RGB to a square ``(S, S, 3)``; None without a face.

    Raises:
        ConfigError: facenet-pytorch is not installed.
    """
    return [_face_crop(picture) for picture in pictures]


def centre_square(picture: Frames) -> Frames:
    """Return the largest square in the middle of a picture."""
    height, width = picture.shape[:2]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(picture[top : top + size, left : left + size])


def _face_crop(picture: Frames) -> Frames | None:
    step = -(-max(picture.shape[:2]) // LONGEST_EDGE)
    searched = np.ascontiguousarray(picture[::step, ::step])
    if min(searched.shape[:2]) < SMALLEST_FACE:
        return None
    boxes, probabilities = _detector().detect(searched)
    largest_first = zip(boxes, probabilities, strict=True) if boxes is not None else ()
    face = next((box for box, probability in largest_first if probability >= LEAST_PROBABILITY), None)
    if face is None:
        return None
    left, top, right, bottom = (float(edge) * step for edge in face)
    half = max(right - left, bottom - top) * (0.5 + MARGIN)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    height, width = picture.shape[:2]
    rows = slice(max(0, round(middle_y - half)), min(height, round(middle_y + half)))
    columns = slice(max(0, round(middle_x - half)), min(width, round(middle_x + half)))
    crop = picture[rows, columns]
    return centre_square(crop) if crop.size else None


@cache
def _detector() -> Any:
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ConfigError(
            f"faces need facenet-pytorch ({error}): pip install torchvision && pip install --no-deps "
            "facenet-pytorch==2.6.0, or use --faces centre"
        ) from error
    return MTCNN(min_face_size=SMALLEST_FACE, select_largest=True, post_process=False, device="cpu")
