"""Crop faces as the published sets hold them: 112 by 112, BGR, found by MTCNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from affectgpt_r1.data.media.any_media import read_uniform_frames
from affectgpt_r1.data.media.containers import Streams, inspect
from affectgpt_r1.data.media.decoding_process import in_decoding_process
from affectgpt_r1.data.media.faces import Box, centre_square, crop_face, find_faces, overlap, track_people
from affectgpt_r1.data.media.video import Frames, resize_faces
from affectgpt_r1.errors import MediaError
from affectgpt_r1.io.files import replacing

Faces: TypeAlias = Literal["detect", "centre", "none"]

SIZE = 112  # pixels, as OpenFace writes
LIKELY = 0.7  # probability of a face that is enough where the person's is known to be
SAME_PLACE = 0.3  # overlap of two boxes of one person, frames apart


class Crops(NamedTuple):
    """How many frames of a video were searched, in how many the person was found, and how many people were seen."""

    frames: int
    faces: int
    people: int = 1


def write_crops(video: Path, target: Path, count: int, faces: Faces, streams: Streams | None = None) -> Crops:
    """Write the crops of ``count`` uniform frames as ``(T, 112, 112, 3)`` uint8 BGR; of the most prominent person.

    Training reads 8 uniform ones of these. Where ``count`` is a multiple of 8 and each frame shows a face, they are
    the 8 uniform frames of the video.

    Args:
        video: The file.
        target: The ``.npy`` file; nothing is written where no frame shows a face.
        count: Frames; a shorter video gives all that it has.
        faces: ``detect``, or ``centre`` for each frame's middle.
        streams: Of the video, where they are known.

    Raises:
        MediaError: The video cannot be read.
        ConfigError: The detector is not installed.
    """
    streams = streams or inspect(video)
    if not streams.has_video:
        raise MediaError(f"{video}: has no video stream")
    pictures = _pictures(video, streams, min(count, len(streams.picture_times)))
    num_people = 1
    if faces == "detect":
        people = track_people(pictures)  # not the largest face of each frame, which may be another's
        boxes = _followed(pictures, people[0].boxes) if people else {}
        found = [crop_face(pictures[index], box) for index, box in sorted(boxes.items())]
        crops, num_people = [crop for crop in found if crop is not None], len(people)
    else:
        crops = [centre_square(picture) for picture in pictures]
    if crops:
        with replacing(target, flush=False, elsewhere="choose another --output") as partial, partial.open("wb") as file:
            np.save(file, _published(crops))
    return Crops(len(pictures), len(crops), num_people)


def _followed(pictures: Sequence[Frames], sure: Mapping[int, Box]) -> dict[int, Box]:
    """Add less probable faces in the place where the person is in the nearest frame that surely shows them."""
    boxes = dict(sure)
    for index in set(range(len(pictures))) - set(sure):
        nearest = sure[min(sure, key=lambda known: abs(known - index))]
        edge = max(pictures[index].shape[:2]) // 4  # MTCNN misses faces that fill a picture
        padded = np.pad(pictures[index], ((edge, edge), (edge, edge), (0, 0)), constant_values=127)
        for box in find_faces(padded, LIKELY):
            left, top, right, bottom = (side - edge for side in box)
            if overlap((left, top, right, bottom), nearest) >= SAME_PLACE:
                boxes[index] = (left, top, right, bottom)
                break
    return boxes


@in_decoding_process
def _pictures(video: Path, streams: Streams, count: int) -> list[Frames]:
    return read_uniform_frames(video, streams, count)


def _published(crops: Sequence[Frames]) -> Frames:
    scaled = [resize_faces(crop[None], SIZE)[0].permute(1, 2, 0).numpy() for crop in crops]
    return np.ascontiguousarray(np.stack(scaled)[..., ::-1])
