"""Read a clip's files as the input of a policy, in training, ``evaluate`` and ``predict`` alike.

A file that is stored as it is shown is read by :mod:`affectgpt_r1.data.media.video`; one that a player would turn,
mirror or stretch, and a long one, by :mod:`affectgpt_r1.data.media.any_media`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from affectgpt_r1.data.media.any_media import LONG_SECONDS, read_sound_windows, read_uniform_frames
from affectgpt_r1.data.media.audio import read_audio_windows
from affectgpt_r1.data.media.containers import Streams, inspect, opened, video_stream
from affectgpt_r1.data.media.decoding_process import in_decoding_process
from affectgpt_r1.data.media.pictures import HDR, LONGEST_EDGE, orientation
from affectgpt_r1.data.media.video import (
    Frames,
    channels_first,
    padded_square,
    read_face_crops,
    read_frames,
    resize_faces,
    resize_frames,
    squash_still,
)
from affectgpt_r1.errors import MediaError

if TYPE_CHECKING:
    from affectgpt_r1.data.dataset import MediaSettings


class _Properties(NamedTuple):
    """What a file and its first frame declare."""

    is_upright: bool = True
    is_mirrored: bool = False
    has_square_pixels: bool = True
    is_large: bool = False
    is_stored_otherwise: bool = False  # interlaced or HDR
    is_long: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the stored frames are those that a player shows."""
        as_stored = self.is_upright and self.has_square_pixels and not self.is_stored_otherwise
        return as_stored and not self.is_large and not self.is_long


def read_faces(path: Path, media: MediaSettings) -> Tensor:
    """Read the face crops ``(F, 3, S, S)`` uint8 of a data folder's clip, RGB unless ``channel_order`` is wrong.

    Raises:
        MediaError: The file cannot be read as face crops.
    """
    crops = read_face_crops(path, media.num_frames, media.channel_order)
    return resize_faces(crops, media.image_size, media.face_resize)


def resize_found_faces(crops: Sequence[Frames], media: MediaSettings) -> Tensor:
    """Scale face crops that were detected in a picture, and so are RGB, to what :func:`read_faces` gives.

    A policy that was trained on OpenFace's BGR crops as if they were RGB (``channel_order=rgb``), as the published
    weights were, gets BGR here, too.
    """
    turned = [crop[..., ::-1] if media.channel_order == "rgb" else crop for crop in crops]
    return torch.cat(
        [resize_faces(np.ascontiguousarray(crop)[None], media.image_size, media.face_resize) for crop in turned]
    )


@in_decoding_process
def read_full_frames(path: Path, media: MediaSettings, streams: Streams | None = None) -> Tensor:
    """Read full frames, or the still of ``visual=image``, as ``(F, 3, S, S)`` uint8 RGB; see :func:`read_pictures`."""
    if media.frame_resize == "squash" and media.visual != "image":
        return channels_first(np.stack(_read(path, media, streams, media.image_size)))
    return resize_pictures(read_pictures(path, media, streams), media)


def resize_pictures(pictures: Sequence[Frames], media: MediaSettings) -> Tensor:
    """Scale pictures to ``(F, 3, S, S)`` uint8 RGB; ``visual=image`` takes only the middle one."""
    if media.visual == "image":
        pictures = pictures[len(pictures) // 2 :][:1]
    if media.frame_resize == "pad":
        pictures = [padded_square(picture) for picture in pictures]
    if media.frame_resize != "crop":  # "squash" here: of a still, which the published loader reads by Pillow, too
        return channels_first(np.stack([squash_still(picture, media.image_size) for picture in pictures]))
    return torch.cat([resize_frames(picture[None], media.image_size) for picture in pictures])


@in_decoding_process
def read_pictures(path: Path, media: MediaSettings, streams: Streams | None = None) -> list[Frames]:
    """Read ``F`` uniform frames ``(H, W, 3)`` uint8 RGB as a player shows them.

    Args:
        path: The file.
        media: How many, and which decoder.
        streams: From :func:`~affectgpt_r1.data.media.containers.inspect`, for a file outside a data set: what the
            decoders refuse is then read as far as a player can.

    Raises:
        MediaError: The file cannot be read.
    """
    return _read(path, media, streams, None)


@in_decoding_process
def read_sound(path: Path, media: MediaSettings, streams: Streams | None = None) -> Tensor:
    """Read audio windows ``(W, S)`` float32 at 16 kHz; for ``streams`` see :func:`read_pictures`.

    Raises:
        MediaError: The sound cannot be read.
    """
    options = media.num_windows, media.window_seconds, media.windows
    is_long = streams is not None and (streams.is_part or streams.sound_end - streams.sound_start > LONG_SECONDS)
    if not is_long and not _properties(path).is_long:
        try:
            return read_audio_windows(path, *options, None if streams is None else streams.audio_track)
        except MediaError:
            if streams is None:
                raise  # else it may be a damaged packet, which players ignore
    streams = streams or inspect(path)
    if not streams.has_audio:
        raise MediaError(f"{path}: has no audio track")
    return read_sound_windows(path, streams, *options)


def _read(path: Path, media: MediaSettings, streams: Streams | None, size: int | None) -> list[Frames]:
    if streams is not None and streams.is_part:
        return read_uniform_frames(path, streams, media.num_frames, size)
    file = _properties(path)
    if media.frame_resize == "squash":  # the published rule has no largest size
        file = file._replace(is_large=False)
    # The published rule deinterlaces nothing; of a file outside a data set a player's picture is wanted.
    is_plain = not (file.is_mirrored or file.is_long or (file.is_stored_otherwise and streams is not None))
    if media.decoder == "decord" or (file.is_plain if size is None else is_plain):
        try:
            return list(read_frames(path, media.num_frames, media.decoder, size, media.frame_indices))
        except MediaError:
            if streams is None or media.decoder == "decord":
                raise
    streams = streams or inspect(path)
    if not streams.has_video:
        raise MediaError(f"{path}: has no video stream")
    return read_uniform_frames(path, streams, media.num_frames, size, media.frame_indices)


def _properties(path: Path) -> _Properties:
    """Decode one frame; if there is none, the reader will say why."""
    try:
        with opened(path) as container:
            seconds = (container.duration or 0) / av.time_base
            stream = video_stream(container)
            frame = next(container.decode(stream), None) if stream is not None else None
            if stream is None or frame is None:
                return _Properties(is_long=seconds > LONG_SECONDS)
            mirrored, turns = orientation(frame)
            return _Properties(
                is_upright=not mirrored and turns == 0,
                is_mirrored=mirrored,
                has_square_pixels=stream.sample_aspect_ratio in (None, 0, 1),
                is_large=max(frame.width, frame.height) > LONGEST_EDGE,
                is_stored_otherwise=frame.interlaced_frame or frame.color_trc in HDR,
                is_long=seconds > LONG_SECONDS,
            )
    except MediaError:
        return _Properties()
