"""Crop faces as the published sets hold them: 112 by 112, BGR, found by MTCNN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from affectgpt_r1.data.media.any_media import read_uniform_frames
from affectgpt_r1.data.media.containers import Streams, inspect
from affectgpt_r1.data.media.decoding_process import in_decoding_process
from affectgpt_r1.data.media.faces import centre_square, crop_face, track_people
from affectgpt_r1.data.media.video import Frames, resize_faces
from affectgpt_r1.errors import MediaError
from affectgpt_r1.io.files import replacing

Faces: TypeAlias = Literal["detect", "centre", "none"]

SIZE = 112  # pixels, as OpenFace writes


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
        boxes = people[0].boxes if people else {}
        found = [crop_face(pictures[index], box) for index, box in sorted(boxes.items())]
        crops, num_people = [crop for crop in found if crop is not None], len(people)
    else:
        crops = [centre_square(picture) for picture in pictures]
    if crops:
        with replacing(target, flush=False, elsewhere="choose another --output") as partial, partial.open("wb") as file:
            np.save(file, _published(crops))
    return Crops(len(pictures), len(crops), num_people)


@in_decoding_process
def _pictures(video: Path, streams: Streams, count: int) -> list[Frames]:
    return read_uniform_frames(video, streams, count)


def _published(crops: Sequence[Frames]) -> Frames:
    scaled = [resize_faces(crop[None], SIZE)[0].permute(1, 2, 0).numpy() for crop in crops]
    return np.ascontiguousarray(np.stack(scaled)[..., ::-1])
