"""Convert a decoded frame to RGB: as a player shows it, or squashed to a square as the published loader does."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

LONGEST_EDGE = 1280  # larger pictures are scaled down as they are decoded; faces and the encoders need less
_TIME_BASE = Fraction(1, 1000)  # required by the filters, without effect
_EXIF = 31  # AV_FRAME_DATA_EXIF of FFmpeg 8, whose filter has no name for it


def as_shown(frame: av.VideoFrame, pixel_aspect: Fraction) -> NDArray[np.uint8]:
    """Return a decoded frame ``(H, W, 3)`` uint8 RGB, upright, the longest edge at most ``LONGEST_EDGE``.

    Pixels become square; ``pixel_aspect`` is the width of a stored pixel over its height.
    """
    width = float(frame.width * pixel_aspect)
    scale = min(1.0, LONGEST_EDGE / max(width, frame.height))
    picture = frame.to_ndarray(
        format="rgb24", width=max(2, round(width * scale)), height=max(2, round(frame.height * scale))
    )
    mirrored, turns = orientation(frame)
    upright = np.rot90(picture[:, ::-1] if mirrored else picture, turns)
    return np.ascontiguousarray(upright).astype(np.uint8, copy=False)


def squash(frame: av.VideoFrame, size: int) -> NDArray[np.uint8]:
    """Scale a decoded frame to ``(size, size, 3)`` uint8 RGB, upright; its aspect is not kept.

    The published loader lets decord do this: FFmpeg's ``scale`` filter with bilinear interpolation, from the decoded
    colours to RGB, after a turn by quarters where the file asks for one. The same filters give the same bytes here,
    unlike PyAV's ``reformat``. A mirrored frame, which decord turns by a half, is mirrored.
    """
    graph = av.filter.Graph()
    mirrored, turns = orientation(frame)
    steps = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE)]
    steps += [graph.add("hflip")] if mirrored else []
    steps += [graph.add("transpose", "cclock") for _ in range(turns)]
    steps += [graph.add("scale", f"{size}:{size}:flags=bilinear"), graph.add("format", "pix_fmts=rgb24")]
    steps += [graph.add("buffersink")]
    graph.link_nodes(*steps).configure()
    graph.push(frame)
    scaled: Any = graph.pull()
    return np.asarray(scaled.to_ndarray(format="rgb24"), dtype=np.uint8)


def orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """Return whether to mirror a frame left to right, and how many quarters to turn it left then."""
    turns = round(frame.rotation / 90)
    mirrored = _is_mirrored(frame)  # a flip before the turn, which FFmpeg's angle leaves out
    return mirrored, (turns + 2 * mirrored) % 4


def _is_mirrored(frame: av.VideoFrame) -> bool:
    # Photos have side data that PyAV 18 cannot list: it crashes when it frees a colour profile, and does not know EXIF.
    graph = av.filter.Graph()
    steps = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE)]
    steps += [graph.add("sidedata", f"mode=delete:type={kind}") for kind in ("ICC_PROFILE", _EXIF)]
    graph.link_nodes(*steps, graph.add("buffersink")).configure()
    graph.push(frame)
    kept: Any = graph.pull()
    matrix: Any = kept.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    across_x, across_y, _, down_x, down_y = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
    return bool(across_x * down_y < across_y * down_x)
