"""Reproduce OpenCV's ``cv2.resize`` of 8-bit pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_COEFFICIENT_BITS = 11


def cv2_resize(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return what ``cv2.resize(picture, (size, size))`` gives for each picture, bit for bit.

    This is ``INTER_LINEAR``, bilinear without antialiasing in fixed-point arithmetic: ``(N, H, W, C)`` to
    ``(N, size, size, C)``.
    """
    pixels = pictures.astype(np.int32)
    height, width = pixels.shape[1:3]
    left, right, columns = _neighbours(width, size)
    # At the left and right edge OpenCV takes one pixel alone; at the top and bottom it takes the edge row twice.
    columns[(left < 0) | (right >= width)] = 0
    left, right = left.clip(0, width - 1), right.clip(0, width - 1)
    left_weight, right_weight = (_fixed(weight)[:, None] for weight in (1 - columns, columns))
    across = pixels[:, :, left] * left_weight + pixels[:, :, right] * right_weight
    top, bottom, rows = _neighbours(height, size)
    top_weight, bottom_weight = (_fixed(weight)[:, None, None] for weight in (1 - rows, rows))
    above = (top_weight * (across[:, top.clip(0, height - 1)] >> 4)) >> 16
    below = (bottom_weight * (across[:, bottom.clip(0, height - 1)] >> 4)) >> 16
    # 11 + 11 bits of weights, of which 4 and 16 are gone: 2 are left, rounded.
    return ((above + below + 2) >> 2).clip(0, 255).astype(np.uint8)


def _neighbours(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the source pixels before and after each target pixel, and how near it is to the latter (0 to 1)."""
    places = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    before = np.floor(places).astype(np.int64)
    return before, before + 1, places - before.astype(np.float32)


def _fixed(weights: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.rint(weights * (1 << _COEFFICIENT_BITS)).astype(np.int32)
