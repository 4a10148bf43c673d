"""From a clip's files to what a policy is given: the one reader of training, ``evaluate`` and ``predict``.

A file that is stored as it is shown is read by :mod:`affectgpt_r1.data.media.video`. One that a player would turn,
mirror or stretch, and a long one, is read by :mod:`affectgpt_r1.data.media.any_media`, by training, too.
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
from affectgpt_r1.data.media.pictures import LONGEST_EDGE, orientation
from affectgpt_r1.data.media.video import (
    Frames,
    channels_first,
    read_face_crops,
    read_frames,
    resize_faces,
    resize_frames,
    squash_still,
)
from affectgpt_r1.errors import MediaError

if TYPE_CHECKING:
    from affectgpt_r1.data.dataset import MediaSettings


class _Look(NamedTuple):
    """What a file says about itself, and its first frame."""

    is_upright: bool = True
    is_mirrored: bool = False
    has_square_pixels: bool = True
    is_large: bool = False
    is_long: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the stored frames are those that a player shows."""
        return self.is_upright and self.has_square_pixels and not self.is_large and not self.is_long


def read_faces(path: Path, media: MediaSettings) -> Tensor:
    """Read the face crops of a data folder's clip.

    Args:
        path: ``.npy`` file of :func:`~affectgpt_r1.data.media.video.read_face_crops`.
        media: How many, and in which shape.

    Returns:
        ``(F, 3, S, S)`` uint8, RGB unless ``channel_order`` takes BGR for it.

    Raises:
        MediaError: The file cannot be read as face crops.
    """
    crops = read_face_crops(path, media.num_frames, media.channel_order)
    return resize_faces(crops, media.image_size, media.face_resize)


def resize_found_faces(crops: Sequence[Frames], media: MediaSettings) -> Tensor:
    """Scale face crops that were found in a picture, and so are RGB, to what :func:`read_faces` gives.

    Where OpenFace's BGR crops were read as if they were RGB (``channel_order=rgb``), as the published weights saw them,
    these are turned to BGR.

    Returns:
        ``(F, 3, S, S)`` uint8.
    """
    turned = [crop[..., ::-1] if media.channel_order == "rgb" else crop for crop in crops]
    return torch.cat(
        [resize_faces(np.ascontiguousarray(crop)[None], media.image_size, media.face_resize) for crop in turned]
    )


@in_decoding_process
def read_whole_frames(path: Path, media: MediaSettings, streams: Streams | None = None) -> Tensor:
    """Read whole frames, or the still of ``visual=image``.

    Args:
        path: The file.
        media: How many, and in which shape.
        streams: See :func:`read_pictures`.

    Returns:
        ``(F, 3, S, S)`` uint8 RGB.

    Raises:
        MediaError: The file cannot be read.
    """
    if media.frame_resize == "squash" and media.visual != "image":
        return channels_first(np.stack(_read(path, media, streams, media.image_size)))
    return resize_pictures(read_pictures(path, media, streams), media)


def resize_pictures(pictures: Sequence[Frames], media: MediaSettings) -> Tensor:
    """Scale pictures that were decoded at their own size; ``visual=image`` takes the middle one alone.

    Returns:
        ``(F, 3, S, S)`` uint8 RGB.
    """
    if media.visual == "image":
        pictures = pictures[len(pictures) // 2 :][:1]
    if media.frame_resize == "squash":
        return channels_first(np.stack([squash_still(picture, media.image_size) for picture in pictures]))
    return torch.cat([resize_frames(picture[None], media.image_size) for picture in pictures])


@in_decoding_process
def read_pictures(path: Path, media: MediaSettings, streams: Streams | None = None) -> list[Frames]:
    """Read ``F`` uniform frames as a player shows them.

    Args:
        path: The file.
        media: How many, and which decoder.
        streams: From :func:`~affectgpt_r1.data.media.containers.inspect`, for a file that nobody prepared: what the
            decoders refuse is then read as far as any player can.

    Returns:
        Pictures ``(H, W, 3)`` uint8 RGB.

    Raises:
        MediaError: The file cannot be read.
    """
    return _read(path, media, streams, None)


@in_decoding_process
def read_sound(path: Path, media: MediaSettings, streams: Streams | None = None) -> Tensor:
    """Read audio windows ``(W, S)`` float32 at 16 kHz.

    Args:
        path: The file.
        media: How many, how long, and where they start.
        streams: See :func:`read_pictures`.

    Raises:
        MediaError: The sound cannot be read.
    """
    options = media.num_windows, media.window_seconds, media.windows
    is_long = streams is not None and streams.sound_end - streams.sound_start > LONG_SECONDS
    if not is_long and not _look(path).is_long:
        try:
            return read_audio_windows(path, *options)
        except MediaError:
            if streams is None:
                raise  # else a damaged packet, which players pass over
    streams = streams or inspect(path)
    if not streams.has_audio:
        raise MediaError(f"{path}: has no audio track")
    return read_sound_windows(path, streams, *options)


def _read(path: Path, media: MediaSettings, streams: Streams | None, size: int | None) -> list[Frames]:
    look = _look(path)
    if media.frame_resize == "squash":  # the published rule knows no largest size
        look = look._replace(is_large=False)
    if media.decoder == "decord" or (look.is_plain if size is None else not (look.is_mirrored or look.is_long)):
        try:
            return list(read_frames(path, media.num_frames, media.decoder, size))
        except MediaError:
            if streams is None or media.decoder == "decord":
                raise
    streams = streams or inspect(path)
    if not streams.has_video:
        raise MediaError(f"{path}: has no video stream")
    return read_uniform_frames(path, streams, media.num_frames, size)


def _look(path: Path) -> _Look:
    """Decode one frame; of a file that gives none, the reader says why."""
    try:
        with opened(path) as container:
            seconds = (container.duration or 0) / av.time_base
            stream = video_stream(container)
            frame = next(container.decode(stream), None) if stream is not None else None
            if stream is None or frame is None:
                return _Look(is_long=seconds > LONG_SECONDS)
            mirrored, turns = orientation(frame)
            return _Look(
                is_upright=not mirrored and turns == 0,
                is_mirrored=mirrored,
                has_square_pixels=stream.sample_aspect_ratio in (None, 0, 1),
                is_large=max(frame.width, frame.height) > LONGEST_EDGE,
                is_long=seconds > LONG_SECONDS,
            )
    except MediaError:
        return _Look()
