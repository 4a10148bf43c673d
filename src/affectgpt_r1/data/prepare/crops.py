"""Crop faces as the published sets hold them: 112 by 112, BGR, found by MTCNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from affectgpt_r1.data.media.any_media import read_uniform_frames
from affectgpt_r1.data.media.containers import Streams, inspect
from affectgpt_r1.data.media.decoding_process import in_decoding_process
from affectgpt_r1.data.media.faces import Box, centre_square, crop_face, find_faces, look, overlap, track_people
from affectgpt_r1.data.media.video import Frames, resize_faces
from affectgpt_r1.errors import MediaError
from affectgpt_r1.io.files import replacing

Faces: TypeAlias = Literal["detect", "centre", "none"]

SIZE = 112  # pixels, as OpenFace writes
LIKELY = 0.7  # probability of a face that is enough where the person's is known to be
SAME_PLACE = 0.3  # overlap of two boxes of one person, frames apart
SAME_LOOK = 0.8  # correlation of the place of a face in two frames; with another face behind a cut it is lower


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
        boxes = _followed(pictures, people[0].boxes if people else {})
        found = [crop_face(pictures[index], box) for index, box in sorted(boxes.items())]
        crops, num_people = [crop for crop in found if crop is not None], max(len(people), min(1, len(boxes)))
    else:
        crops = [centre_square(picture) for picture in pictures]
    if crops:
        with replacing(target, flush=False, elsewhere="choose another --output") as partial, partial.open("wb") as file:
            np.save(file, _published(crops))
    return Crops(len(pictures), len(crops), num_people)


def _followed(pictures: Sequence[Frames], sure: Mapping[int, Box]) -> dict[int, Box]:
    """Add the frames in which the person's place has a less probable face, or looks as in the nearest other frame.

    Without a sure face, less probable ones are a person where two frames have one in the same place.
    """
    likely = {index: _likely(picture) for index, picture in enumerate(pictures) if index not in sure}
    boxes = dict(sure) or _seen_twice(likely)
    for index, found in likely.items():
        if boxes and index not in boxes:
            nearest = boxes[_nearest(boxes, index)]
            same = [box for box in found if overlap(box, nearest) >= SAME_PLACE]
            boxes.update({index: same[0]} if same else {})
    for index in likely.keys() - boxes.keys() if boxes else ():  # eyes shut, a hand before the mouth
        other = _nearest(boxes, index)
        if float((look(pictures[index], boxes[other]) * look(pictures[other], boxes[other])).mean()) >= SAME_LOOK:
            boxes[index] = boxes[other]
    return boxes


def _likely(picture: Frames) -> list[Box]:
    """Return faces of a picture with a border, or of its mirror image: MTCNN misses some that fill a picture."""
    edge, width = max(picture.shape[:2]) // 4, picture.shape[1]
    padded = np.pad(picture, ((edge, edge), (edge, edge), (0, 0)), constant_values=127)
    found = [(box[0] - edge, box[1] - edge, box[2] - edge, box[3] - edge) for box in find_faces(padded, LIKELY)]
    if not found:
        mirrored = find_faces(np.ascontiguousarray(padded[:, ::-1]), LIKELY)
        found = [(width + edge - box[2], box[1] - edge, width + edge - box[0], box[3] - edge) for box in mirrored]
    return [box for box in found if crop_face(picture, box) is not None]


def _seen_twice(likely: Mapping[int, Sequence[Box]]) -> dict[int, Box]:
    largest = {index: boxes[0] for index, boxes in likely.items() if boxes}
    for first in largest.values():
        same = {index: box for index, box in largest.items() if overlap(box, first) >= SAME_PLACE}
        if len(same) > 1:
            return same
    return {}


def _nearest(boxes: Mapping[int, Box], index: int) -> int:
    return min(boxes, key=lambda known: abs(known - index))


@in_decoding_process
def _pictures(video: Path, streams: Streams, count: int) -> list[Frames]:
    return read_uniform_frames(video, streams, count)


def _published(crops: Sequence[Frames]) -> Frames:
    scaled = [resize_faces(crop[None], SIZE)[0].permute(1, 2, 0).numpy() for crop in crops]
    return np.ascontiguousarray(np.stack(scaled)[..., ::-1])
