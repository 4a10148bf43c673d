"""Convert a decoded frame to RGB: as a player shows it, or squashed to a square as the published loader does."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

LONGEST_EDGE = 1280  # larger pictures are scaled down as they are decoded; faces and the encoders need less
_TIME_BASE = Fraction(1, 1000)  # required by the filters, without effect
HDR = {16: "PQ", 18: "HLG"}  # AVColorTransferCharacteristic
_WHITE = 203  # nits of HDR's reference white (ITU-R BT.2408), which becomes the white of other pictures
_PEAK = 1000 / _WHITE  # brighter light is shown as white
_KNEE = 0.5  # of linear light; what is darker, such as skin, keeps its brightness
_BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_EXIF = 31  # AV_FRAME_DATA_EXIF of FFmpeg 8, whose filter has no name for it


def as_shown(frame: av.VideoFrame, pixel_aspect: Fraction) -> NDArray[np.uint8]:
    """Return a decoded frame ``(H, W, 3)`` uint8 RGB, upright, the longest edge at most ``LONGEST_EDGE``.

    Pixels become square; ``pixel_aspect`` is the width of a stored pixel over its height.
    """
    mirrored, turns = orientation(frame)
    frame = as_player_decodes(frame)
    width = float(frame.width * pixel_aspect)
    scale = min(1.0, LONGEST_EDGE / max(width, frame.height))
    picture = frame.to_ndarray(
        format="rgb24", width=max(2, round(width * scale)), height=max(2, round(frame.height * scale))
    )
    upright = np.rot90(picture[:, ::-1] if mirrored else picture, turns)
    return np.ascontiguousarray(upright).astype(np.uint8, copy=False)


def squash(frame: av.VideoFrame, size: int, *, as_player: bool = False) -> NDArray[np.uint8]:
    """Scale a decoded frame to ``(size, size, 3)`` uint8 RGB, upright; its aspect is not kept.

    The published loader lets decord do this: FFmpeg's ``scale`` filter with bilinear interpolation, from the decoded
    colours to RGB, after a turn by quarters where the file asks for one. The same filters give the same bytes here,
    unlike PyAV's ``reformat``. A mirrored frame, which decord turns by a half, is mirrored.

    Args:
        frame: Decoded.
        size: Height and width.
        as_player: See :func:`as_player_decodes`, which decord does not do.
    """
    graph = av.filter.Graph()
    mirrored, turns = orientation(frame)
    frame = as_player_decodes(frame) if as_player else frame
    steps = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE)]
    steps += [graph.add("hflip")] if mirrored else []
    steps += [graph.add("transpose", "cclock") for _ in range(turns)]
    steps += [graph.add("scale", f"{size}:{size}:flags=bilinear"), graph.add("format", "pix_fmts=rgb24")]
    steps += [graph.add("buffersink")]
    graph.link_nodes(*steps).configure()
    graph.push(frame)
    scaled: Any = graph.pull()
    return np.asarray(scaled.to_ndarray(format="rgb24"), dtype=np.uint8)


def as_player_decodes(frame: av.VideoFrame) -> av.VideoFrame:
    """Deinterlace a frame and map HDR to the range of other pictures, where it needs that; its side data is lost."""
    if frame.interlaced_frame:
        graph = av.filter.Graph()
        steps = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE)]
        # From this frame alone, which may have been sought: filters that look at its neighbours would need them.
        steps += [graph.add("estdif", "mode=frame"), graph.add("buffersink")]
        graph.link_nodes(*steps).configure()
        graph.push(frame)
        graph.push(None)
        pulled: Any = graph.pull()
        frame = pulled
    if frame.color_trc not in HDR:
        return frame
    scale = min(1.0, 2 * LONGEST_EDGE / max(frame.width, frame.height))  # of 8K in float64, 800 MB
    width, height = max(2, round(frame.width * scale)), max(2, round(frame.height * scale))
    signal = frame.to_ndarray(format="rgb48le", width=width, height=height).astype(np.float32) / np.float32(65535)
    return av.VideoFrame.from_ndarray(_tone_mapped(signal, HDR[frame.color_trc]), format="rgb24")


def _tone_mapped(signal: NDArray[np.float32], transfer: str) -> NDArray[np.uint8]:
    """Map an HDR signal ``(H, W, 3)`` in [0, 1] to BT.709 pictures by ITU-R BT.2100's curves."""
    if transfer == "PQ":
        power = signal ** (1 / 78.84375)
        light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        light *= 10_000 / _WHITE
    else:
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = _PEAK * scene * luminance[..., None] ** 0.2  # on a display of 1000 nits
    light = np.clip(light @ _BT2020_TO_BT709.T.astype(np.float32), 0, _PEAK)
    # A Möbius transform above the knee, as FFmpeg's filter `tonemap` has it, which needs zscale around it.
    shift = -(_KNEE**2) * (_PEAK - 1) / (_KNEE**2 - 2 * _KNEE + _PEAK)
    slope = (_KNEE**2 - 2 * _KNEE * _PEAK + _PEAK) / (_PEAK - 1)
    factor = (slope**2 + 2 * slope * _KNEE + _KNEE**2) / (slope - shift)
    light = np.where(light <= _KNEE, light, factor * (light + shift) / (light + slope))
    pixels: NDArray[np.uint8] = np.rint(255 * np.clip(light, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return pixels


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
