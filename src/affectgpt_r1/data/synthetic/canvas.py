"""Paint soft-edged shapes on a stack of frames, in the coordinates of a moving head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.data.synthetic.identity import Colour

Floats: TypeAlias = NDArray[np.floating[Any]]


class Canvas:
    """A stack of square frames that show [-view, view] in both directions.

    Attributes:
        x: Horizontal place of each pixel in the current coordinates, broadcastable to ``(T, H, W)``.
        y: Vertical place, downwards.
    """

    def __init__(self, num_frames: int, size: int, view: float, backdrop: Colour) -> None:
        self._pixel = 2.0 * view / size
        self._places = ((np.arange(size, dtype=np.float32) + 0.5) * self._pixel - view).astype(np.float32)
        light = (1.0 - 0.12 * self._places)[None, :, None].astype(np.float32)
        self._planes = np.empty((3, num_frames, size, size), dtype=np.float32)
        for plane, value in zip(self._planes, backdrop, strict=True):
            plane[:] = value * light
        self._target: Floats = self._planes
        self.x: Floats = self._places[None, None, :]
        self.y: Floats = self._places[None, :, None]

    def follow(self, x: Floats, y: Floats, tilt: Floats) -> None:
        """Make the coordinates those of a head: offset right and down, clockwise radians, ``(T, 1, 1)`` each."""
        right = (self._places[None, None, :] - x).astype(np.float32)
        down = (self._places[None, :, None] - y).astype(np.float32)
        cosine, sine = np.cos(tilt).astype(np.float32), np.sin(tilt).astype(np.float32)
        self.x = cosine * right + sine * down
        self.y = cosine * down - sine * right

    @contextmanager
    def window(self, left: float, right: float, top: float, bottom: float) -> Iterator[tuple[Floats, Floats]]:
        """Paint only inside a box of the unmoved frame, for speed; yields the coordinates inside it."""
        columns = slice(*np.searchsorted(self._places, (left, right)))
        rows = slice(*np.searchsorted(self._places, (top, bottom)))
        self._target = self._planes[:, :, rows, columns]
        try:
            yield self.x[:, rows, columns], self.y[:, rows, columns]
        finally:
            self._target = self._planes

    def paint(self, distance: Floats, colour: Colour) -> None:
        """Fill where a signed distance is negative, with an edge one pixel soft."""
        self.blend(np.clip(0.5 - distance / self._pixel, 0.0, 1.0), colour)

    def blend(self, opacity: Floats, colour: Colour) -> None:
        """Mix a colour in by an opacity in [0, 1]."""
        opacity = opacity.astype(np.float32, copy=False)
        for plane, value in zip(self._target, colour, strict=True):
            plane += opacity * (value - plane)

    def pixels(self, generator: np.random.Generator) -> NDArray[np.uint8]:
        """Return the frames ``(T, H, W, 3)`` as uint8 RGB, with a little sensor noise of their own each."""
        grain = generator.standard_normal(self._planes.shape[1:], dtype=np.float32)
        bright = 255.0 * self._planes + 2.0 * grain
        return np.ascontiguousarray(np.clip(bright, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 3, 0))


def ellipse(x: Floats, y: Floats, centre_x: float, centre_y: float, width: float, height: float | Floats) -> Floats:
    """Return the signed distance to an ellipse, to first order near its edge."""
    across, down = (x - centre_x) / width, (y - centre_y) / height
    inside = across**2 + down**2
    slope = np.sqrt((across / width) ** 2 + (down / height) ** 2)
    value: Floats = (inside - 1.0) / np.maximum(2.0 * slope, 1e-3)
    return value


def capsule(x: Floats, y: Floats, start: tuple[float, float | Floats], end: tuple[float, float | Floats]) -> Floats:
    """Return the distance to the line from ``start`` to ``end``."""
    run, rise = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * run + (y - start[1]) * rise) / (run**2 + rise**2), 0.0, 1.0)
    value: Floats = np.hypot(x - start[0] - along * run, y - start[1] - along * rise)
    return value
