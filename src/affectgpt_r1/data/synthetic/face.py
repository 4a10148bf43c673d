"""Draw a moving face. Lengths are in head units; y points down; (0, 0) is the middle of the head at rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.data.synthetic.canvas import Canvas, Floats, capsule, ellipse
from affectgpt_r1.data.synthetic.identity import Colour, Identity

VIEW = 1.25  # half the side of the frame
CROP_VIEW = 0.95  # half the side of the face crop
CROP_SIZE = 112
NUM_CROPS = 8

_DARK: Colour = (0.10, 0.07, 0.07)
_WHITE: Colour = (0.97, 0.97, 0.95)
_RED: Colour = (0.86, 0.16, 0.18)
_GREEN: Colour = (0.50, 0.66, 0.38)
_MOUTH: Colour = (0.22, 0.04, 0.06)
_EYE_WINDOW = (-0.80, 0.80, -0.72, 0.30)
_MOUTH_WINDOW = (-0.70, 0.70, 0.08, 0.95)
_CHEEK_WINDOW = (-0.80, 0.80, -0.20, 0.75)


class Pose(NamedTuple):
    """What moves, one value per frame."""

    x: Floats  # (T, 1, 1) head offset to the right
    y: Floats  # (T, 1, 1) head offset down
    tilt: Floats  # (T, 1, 1) radians, clockwise
    life: Floats  # (T, 1, 1) factor around 1 on the expression
    lids: Floats  # (T, 1, 1) 1 open, 0 shut in a blink
    speech: Floats  # (T, 1, 1) in [0, 1], how far the syllable opens the mouth


def draw_face(
    identity: Identity,
    cues: Mapping[str, float],
    speech: NDArray[np.float32],
    fps: int,
    size: int,
    generator: np.random.Generator,
) -> NDArray[np.uint8]:
    """Draw the frames of one clip.

    Args:
        identity: Who is seen.
        cues: The clip's face cues.
        speech: ``(T,)`` opening of the mouth by the current syllable, in [0, 1].
        fps: Frames per second.
        size: Side of the frames in pixels.
        generator: Draws the phases of the motion, and the blinks.

    Returns:
        ``(T, size, size, 3)`` uint8 RGB.
    """
    pose = _pose(cues, speech, fps, generator)
    canvas = Canvas(len(speech), size, VIEW, identity.backdrop)
    _draw_body(canvas, identity)
    canvas.follow(pose.x, pose.y, pose.tilt)
    _draw_head(canvas, identity)
    _draw_cheeks(canvas, cues["blush"])
    _draw_eyes(canvas, identity, cues, pose)
    _draw_brows(canvas, identity, cues, pose)
    _draw_mouth(canvas, identity, cues, pose)
    return canvas.pixels(generator)


def face_crops(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop eight evenly spaced frames of ``(T, H, H, 3)`` to ``(8, 112, 112, 3)`` uint8, resized bilinearly.

    The region does not follow the head, so that its motion and tilt remain visible.
    """
    count, size = frames.shape[:2]
    chosen = np.arange(NUM_CROPS) * count // NUM_CROPS
    half = CROP_VIEW / VIEW * size / 2
    places = size / 2 - half + (np.arange(CROP_SIZE) + 0.5) * 2 * half / CROP_SIZE - 0.5
    weights = np.clip(1.0 - np.abs(places[:, None] - np.arange(size)[None, :]), 0.0, None).astype(np.float32)
    rows = np.einsum("oh,thwc->towc", weights, frames[chosen].astype(np.float32), optimize=True)
    both = np.einsum("pw,towc->topc", weights, rows, optimize=True)
    crops: NDArray[np.uint8] = np.round(both).astype(np.uint8)
    return crops


def _pose(cues: Mapping[str, float], speech: NDArray[np.float32], fps: int, generator: np.random.Generator) -> Pose:
    """Return how the head moves; the cue ``head_motion`` sets reach and pace."""
    time = (np.arange(len(speech), dtype=np.float32) / fps)[:, None, None]
    phase = generator.uniform(0.0, 2 * np.pi, size=4)
    motion = cues["head_motion"]
    reach = 0.055 * (1.0 + motion)
    pace = 2 * np.pi * (0.9 + 0.5 * motion)
    blink = generator.uniform(0.5, 2.0)
    return Pose(
        x=reach * np.sin(pace * time + phase[0]),
        y=0.6 * reach * np.sin(1.3 * pace * time + phase[1]),
        tilt=0.38 * cues["head_tilt"] + 0.5 * reach * np.sin(0.8 * pace * time + phase[2]),
        life=1.0 + 0.10 * np.sin(2 * np.pi * 0.6 * time + phase[3]),
        lids=np.where(np.abs(time - blink) < 0.5 / fps, 0.15, 1.0).astype(np.float32),
        speech=np.asarray(speech, dtype=np.float32)[:, None, None],
    )


def _draw_body(canvas: Canvas, identity: Identity) -> None:
    canvas.paint(ellipse(canvas.x, canvas.y, 0.0, 1.45, 0.95, 0.62), identity.clothes)
    canvas.paint(ellipse(canvas.x, canvas.y, 0.0, 0.85, 0.22, 0.30), _shade(identity.skin, 0.85))


def _draw_head(canvas: Canvas, identity: Identity) -> None:
    width, height = identity.head_width, identity.head_height
    long_hair = identity.hair_style == 1
    canvas.paint(
        ellipse(
            canvas.x, canvas.y, 0.0, 0.05 if long_hair else -0.14, width + 0.10, height + (0.12 if long_hair else 0.0)
        ),
        identity.hair,
    )
    head = ellipse(canvas.x, canvas.y, 0.0, 0.0, width, height)
    canvas.paint(head, identity.skin)
    hairline = (-0.50, -0.52, -0.44, -0.66)[identity.hair_style]
    canvas.paint(np.maximum(head - 0.03, canvas.y - hairline), identity.hair)
    with canvas.window(*_CHEEK_WINDOW) as (x, y):
        canvas.paint(ellipse(x, y, 0.0, 0.14 + identity.feature_drop, 0.05, 0.12), _shade(identity.skin, 0.84))


def _draw_cheeks(canvas: Canvas, blush: float) -> None:
    with canvas.window(*_CHEEK_WINDOW) as (x, y):
        distance = ((np.abs(x) - 0.38) / 0.20) ** 2 + ((y - 0.22) / 0.17) ** 2
        canvas.blend(0.8 * abs(blush) * np.exp(-(distance**2)), _RED if blush > 0 else _GREEN)


def _draw_eyes(canvas: Canvas, identity: Identity, cues: Mapping[str, float], pose: Pose) -> None:
    level = -0.10 + identity.feature_drop
    width = 0.135 * identity.eye_size
    height = np.maximum(0.012, 0.085 * identity.eye_size * (1.0 + 0.85 * cues["eye_open"] * pose.life) * pose.lids)
    with canvas.window(*_EYE_WINDOW) as (x, y):
        side = np.abs(x) - identity.eye_spacing
        canvas.paint(ellipse(side, y, 0.0, level, width + 0.03, height + 0.03), _DARK)
        opening = ellipse(side, y, 0.0, level, width, height)
        canvas.paint(opening, _WHITE)
        iris = ellipse(side, y, 0.0, level - 0.07 * cues["gaze"], 0.062, 0.062)
        canvas.paint(np.maximum(iris, opening), _DARK)
        if identity.glasses:
            canvas.paint(np.abs(ellipse(side, y, 0.0, level, 0.20, 0.17)) - 0.012, (0.2, 0.2, 0.25))


def _draw_brows(canvas: Canvas, identity: Identity, cues: Mapping[str, float], pose: Pose) -> None:
    level = -0.34 + identity.feature_drop - 0.10 * cues["brow_height"] * pose.life
    inner = level - 0.12 * cues["brow_angle"] * pose.life
    outer = level + 0.06 * cues["brow_angle"] * pose.life
    with canvas.window(*_EYE_WINDOW) as (x, y):
        start = (identity.eye_spacing - 0.15, inner)
        end = (identity.eye_spacing + 0.16, outer)
        canvas.paint(capsule(np.abs(x), y, start, end) - 0.036, _shade(identity.hair, 0.45))


def _draw_mouth(canvas: Canvas, identity: Identity, cues: Mapping[str, float], pose: Pose) -> None:
    width = identity.mouth_width * (1.0 - 0.15 * max(0.0, cues["mouth_open"]))
    opening = 0.006 + 0.055 * (1.0 + cues["mouth_open"]) ** 1.6 * 0.75 + 0.035 * pose.speech
    with canvas.window(*_MOUTH_WINDOW) as (x, y):
        across = (x - 0.08 * cues["mouth_skew"]) / width
        bend = np.clip(across, -1.2, 1.2)
        middle = 0.45 + identity.feature_drop + cues["mouth_curve"] * pose.life * (0.06 - 0.20 * bend**2)
        middle = middle - 0.13 * cues["mouth_skew"] * bend
        thickness = np.sqrt(np.clip(1.0 - across**2, 0.0, 1.0))
        beyond = np.maximum(np.abs(across) - 1.0, 0.0) * width
        offset = np.hypot(y - middle, beyond)
        canvas.paint(offset - opening * thickness - 0.030, _lips(identity.skin))
        canvas.paint(offset - opening * thickness + 0.004, _MOUTH)


def _shade(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _lips(skin: Colour) -> Colour:
    return (0.5 * skin[0] + 0.18, 0.35 * skin[1], 0.35 * skin[2] + 0.04)
