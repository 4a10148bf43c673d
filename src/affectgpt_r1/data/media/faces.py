"""Find faces in pictures. Only this module imports facenet-pytorch, whose wheel holds the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectgpt_r1.data.media.video import Frames
from affectgpt_r1.errors import ConfigError

LEAST_PROBABILITY = 0.9  # below it MTCNN finds faces in leaves and clouds
MARGIN = 0.15  # of a face's size, kept around it, about as in OpenFace's crops
LONGEST_EDGE = 480  # pictures are searched at this size, in which a face whose emotion can be read is still large
LEAST_LIKENESS = 0.6  # see Person.likeness; of two pictures of a face in one place it is about 1.3
SMALLEST_FACE = 20  # pixels; MTCNN finds none smaller, and fails on a picture that could not hold one
_LOOK_SIZE = 16

Box: TypeAlias = tuple[float, float, float, float]


class Person:
    """A face that was followed over the pictures of a clip.

    Attributes:
        boxes: Left, top, right and bottom in pixels, by picture.
    """

    def __init__(self, boxes: Mapping[int, Box] | None = None) -> None:
        self.boxes: dict[int, Box] = dict(boxes or {})
        self._last: NDArray[np.float32] | None = None

    @property
    def prominence(self) -> float:
        """The area of the face, summed over the pictures."""
        return sum((right - left) * (bottom - top) for left, top, right, bottom in self.boxes.values())

    def likeness(self, box: Box, look: NDArray[np.float32]) -> float:
        """Return how likely a face is this person's: correlation with the last one, and half of the overlap with it."""
        last = self.boxes[max(self.boxes)]
        correlation = 0.0 if self._last is None else float((self._last * look).mean())
        return max(0.0, correlation) + overlap(last, box) / 2

    def add(self, index: int, box: Box, look: NDArray[np.float32]) -> None:
        """Add the face of a picture."""
        self.boxes[index], self._last = box, look


def face_crops(pictures: Sequence[Frames]) -> list[Frames | None]:
    """Crop the largest face of each picture ``(H, W, 3)`` uint8 RGB to a square ``(S, S, 3)``; None without a face.

    Raises:
        ConfigError: facenet-pytorch is not installed.
    """
    found = [find_faces(picture) for picture in pictures]
    return [crop_face(picture, boxes[0]) if boxes else None for picture, boxes in zip(pictures, found, strict=True)]


def track_people(pictures: Sequence[Frames]) -> list[Person]:
    """Follow the faces over pictures in their order; the most prominent person comes first.

    A face is that of the person whose last one it overlaps most and looks most like; after a cut, looks alone decide.
    """
    people: list[Person] = []
    boxes: list[Box] = []
    for index, picture in enumerate(pictures):
        if index == 0 or not np.array_equal(picture, pictures[index - 1]):  # a still is searched once
            boxes = find_faces(picture)
        looks = [look(picture, box) for box in boxes]
        pairs = [
            (person.likeness(box, look), number, face)
            for number, person in enumerate(people)
            for face, (box, look) in enumerate(zip(boxes, looks, strict=True))
        ]
        taken: set[int] = set()
        for likeness, number, face in sorted(pairs, reverse=True):
            if likeness >= LEAST_LIKENESS and face not in taken and index not in people[number].boxes:
                people[number].add(index, boxes[face], looks[face])
                taken.add(face)
        for face in set(range(len(boxes))) - taken:
            people.append(Person())
            people[-1].add(index, boxes[face], looks[face])
    return sorted(people, key=lambda person: -person.prominence)


def mouth_motion(pictures: Sequence[Frames], person: Person) -> float:
    """Return how much more the lower third of a face changes than the upper one, from each picture to the next."""
    faces = [
        _gray(crop)
        for index, box in sorted(person.boxes.items())
        if (crop := crop_face(pictures[index], box)) is not None
    ]
    if len(faces) < 2:
        return -math.inf
    changes = np.abs(np.diff(np.stack(faces), axis=0)).mean(axis=(0, 2))
    third = len(changes) // 3
    return float(changes[-third:].mean() - changes[:third].mean())


def centre_square(picture: Frames) -> Frames:
    """Return the largest square in the middle of a picture."""
    height, width = picture.shape[:2]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(picture[top : top + size, left : left + size])


def find_faces(picture: Frames, least: float = LEAST_PROBABILITY) -> list[Box]:
    """Return left, top, right and bottom of the faces of a picture that are as probable, the largest first."""
    step = -(-max(picture.shape[:2]) // LONGEST_EDGE)
    searched = np.ascontiguousarray(picture[::step, ::step])
    if min(searched.shape[:2]) < SMALLEST_FACE:
        return []
    boxes, probabilities = _detector().detect(searched)
    if boxes is None:
        return []
    sure = [box for box, probability in zip(boxes, probabilities, strict=True) if probability >= least]
    found = [tuple(float(edge) * step for edge in box) for box in sure]
    return [
        (left, top, right, bottom)
        for left, top, right, bottom in found
        if crop_face(picture, (left, top, right, bottom)) is not None
    ]


def crop_face(picture: Frames, box: Box) -> Frames | None:
    """Return the square around a box and its margin, None outside the picture."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top) * (0.5 + MARGIN)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    height, width = picture.shape[:2]
    rows = slice(max(0, round(middle_y - half)), min(height, round(middle_y + half)))
    columns = slice(max(0, round(middle_x - half)), min(width, round(middle_x + half)))
    crop = picture[rows, columns]
    return centre_square(crop) if crop.size else None


def overlap(first: Box, second: Box) -> float:
    """Return the intersection of two boxes over their union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((right - left) * (bottom - top) for left, top, right, bottom in (first, second))
    return shared / max(areas - shared, 1e-9)


def look(picture: Frames, box: Box) -> NDArray[np.float32]:
    """Return a small picture of a face and what is around it, hair and collar, of mean 0 and variance 1."""
    crop = crop_face(picture, box)
    assert crop is not None
    small = np.asarray(Image.fromarray(crop).resize((_LOOK_SIZE, _LOOK_SIZE), Image.Resampling.BOX), np.float32)
    look: NDArray[np.float32] = (small - small.mean()) / (small.std() + 1e-6)
    return look


def _gray(crop: Frames) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(crop).convert("L").resize((48, 48), Image.Resampling.BOX), np.float32)


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
