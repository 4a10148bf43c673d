"""Read frames and face crops of a clip. Only this module imports decord.

decord is fast but unmaintained: asked for a frame past the decodable end it spins in native code, where no timeout
reaches it. It is therefore never asked for the last frames that a container promises; PyAV reads or refuses those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from affectgpt_r1.data.media.containers import opened, video_stream
from affectgpt_r1.data.media.cv2_resize import cv2_resize
from affectgpt_r1.data.media.pictures import squash
from affectgpt_r1.errors import ConfigError, MediaError

Frames: TypeAlias = NDArray[np.uint8]
ChannelOrder: TypeAlias = Literal["bgr", "rgb"]
FaceResize: TypeAlias = Literal["antialias", "cv2"]
FrameResize: TypeAlias = Literal["crop", "squash", "bicubic", "pad"]
FrameIndices: TypeAlias = Literal["floor", "middle"]

_MOST_CROP_PIXELS = 1 << 22  # OpenFace writes 112 by 112
UNVERIFIED_TAIL = 2  # frames at the end of a container's count that may not exist; decord must not be asked for them

# decord's own old FFmpeg takes no list of formats, and opens what a playlist names. It knows one by the text at its
# start. There is none after a zero within the first six bytes, as in mp4, TS, FLV and Ogg; and the marks of Matroska,
# AVI, ASF, MXF and GIF are as sure to it as any text.
_NOT_TEXT = re.compile(
    rb"[^\0]{0,5}\0|\x1aE\xdf\xa3|RIFF.{4}AVI |0&\xb2u\x8ef\xcf\x11|\x06\x0e\x2b\x34|GIF8", re.DOTALL
)


class VideoDecoder(Protocol):
    """Read frames of one opened file by their index."""

    @property
    def num_frames(self) -> int:
        """Number of frames ``V``."""
        ...

    def get_frames(self, indices: Sequence[int]) -> Frames:
        """Return frames ``(len(indices), H, W, 3)``, uint8 RGB. Indices may repeat; they are in ``[0, V)``."""
        ...


class DecordDecoder:
    """decord, opened for one call with one thread, so that it survives forked workers.

    Args:
        path: The file.
        size: Height and width to squash each frame to, as the published loader lets decord do; None keeps its size.

    Raises:
        MediaError: decord cannot open the file.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        import decord

        self._path = path
        self._failures = (decord.DECORDError, RuntimeError)
        edge = -1 if size is None else size
        try:
            with path.open("rb") as file:
                if not _NOT_TEXT.match(file.read(16)):
                    raise MediaError(f"{path}: decord is not given a file that may be a list of other files; use pyav")
                # By its number: a name such as `img%03d.png` would be a pattern.
                opened_file = f"/proc/self/fd/{file.fileno()}"
                self._reader = decord.VideoReader(opened_file, width=edge, height=edge, num_threads=1)
        except (*self._failures, OSError) as error:
            raise MediaError(f"{path}: decord cannot open it: {_first_line(error)}") from error

    @property
    def num_frames(self) -> int:
        """Number of frames that the container promises."""
        return len(self._reader)

    def get_frames(self, indices: Sequence[int]) -> Frames:
        """Return frames ``(len(indices), H, W, 3)``, uint8 RGB.

        Raises:
            MediaError: decord fails, or an index is within ``UNVERIFIED_TAIL`` of the end.
        """
        if max(indices) >= self.num_frames - UNVERIFIED_TAIL:
            raise MediaError(f"{self._path}: decord is not trusted with the last {UNVERIFIED_TAIL} frames; use pyav")
        try:
            frames: Frames = self._reader.get_batch(list(indices)).asnumpy()
        except self._failures as error:
            raise MediaError(f"{self._path}: decord cannot decode it: {_first_line(error)}") from error
        if frames.shape[0] != len(indices) or frames.ndim != 4 or frames.shape[3] != 3:
            raise MediaError(f"{self._path}: decord gave frames of shape {frames.shape}")
        return frames


class PyAVDecoder:
    """PyAV, decoding from the start: slower, exact, and certain to end.

    Args:
        path: The file.
        size: Height and width to squash each frame to, which gives decord's bytes; None keeps its size.

    Raises:
        MediaError: The file cannot be opened or decoded, or has no video stream.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._path = path
        self._size = size
        self._num_frames = self._decode(lambda index, frame: None)
        if not self._num_frames:
            raise MediaError(f"{path}: the video stream has no frames")

    @property
    def num_frames(self) -> int:
        """Number of frames that really decode."""
        return self._num_frames

    def get_frames(self, indices: Sequence[int]) -> Frames:
        """Return frames ``(len(indices), H, W, 3)``, uint8 RGB."""
        wanted: dict[int, Frames] = {}

        def keep(index: int, frame: av.VideoFrame) -> None:
            if index in indices and self._size is not None:
                wanted[index] = squash(frame, self._size)
            elif index in indices:
                wanted[index] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)

        self._decode(keep)
        return np.stack([wanted[index] for index in indices])

    def _decode(self, visit: Callable[[int, av.VideoFrame], None]) -> int:
        count = 0
        with opened(self._path) as container:
            stream = video_stream(container)
            if stream is None:
                raise MediaError(f"{self._path}: has no video stream")
            try:
                for frame in container.decode(stream):
                    visit(count, frame)
                    count += 1
            except av.FFmpegError as error:
                raise MediaError(f"{self._path}: cannot be decoded after {count} frames: {error}") from error
            promised = stream.frames
        if count < promised - max(UNVERIFIED_TAIL, promised // 10):
            raise MediaError(f"{self._path}: cut short: {count} of {promised} frames decode")
        return count


# By setting, in the order in which they are tried.
DECODERS: dict[str, tuple[Callable[..., VideoDecoder], ...]] = {
    "decord": (DecordDecoder,),
    "pyav": (PyAVDecoder,),
    "auto": (DecordDecoder, PyAVDecoder),
}


def uniform_indices(num_frames: int, count: int = 8, rule: FrameIndices = "floor") -> list[int]:
    """Return the indices of ``count`` frames spread over ``num_frames``.

    ``floor`` is AffectGPT's ``floor(arange(0, V, V / min(count, V)))``; a clip shorter than ``count`` repeats its last
    frame. ``middle`` is HumanOmni's: of ``V - 1`` in equal segments, the middle of each.

    >>> uniform_indices(48), uniform_indices(3)
    ([0, 6, 12, 18, 24, 30, 36, 42], [0, 1, 2, 2, 2, 2, 2, 2])
    >>> uniform_indices(133, rule="middle")
    [8, 25, 41, 58, 74, 91, 107, 124]
    """
    if rule == "middle":
        # Half to even after adding 1e-6, as published: 24.5 is 25.
        return [round((2 * index + 1) * (num_frames - 1) / (2 * count) + 1e-6) for index in range(count)]
    distinct = min(count, num_frames)
    indices = [index * num_frames // distinct for index in range(distinct)]
    return indices + indices[-1:] * (count - distinct)


def read_frames(
    path: Path, count: int = 8, decoder: str = "auto", size: int | None = None, rule: FrameIndices = "floor"
) -> Frames:
    """Read ``count`` uniform frames of a video file as they are stored.

    Args:
        path: The file.
        count: Frames ``F``.
        decoder: Key of ``DECODERS``.
        size: Height and width to squash each frame to as it is decoded, as published; None keeps its size.
        rule: See :func:`uniform_indices`.

    Returns:
        ``(F, H, W, 3)`` uint8 RGB.

    Raises:
        MediaError: No decoder can read the file; names the file and the last decoder's reason.
        ConfigError: ``decoder`` is unknown.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"data.decoder={decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    failure: Exception | None = None
    for open_decoder in DECODERS[decoder]:
        try:
            reader = open_decoder(path) if size is None else open_decoder(path, size)
            return reader.get_frames(uniform_indices(reader.num_frames, count, rule))
        # decord is not packaged for every platform; PyAV reads there alone.
        except (MediaError, ImportError, OSError) as error:
            failure = error
    if isinstance(failure, MediaError):
        raise failure
    raise ConfigError(f"data.decoder={decoder} is not installed here ({failure}); use data.decoder=pyav") from failure


def read_face_crops(path: Path, count: int = 8, channel_order: ChannelOrder = "bgr") -> Frames:
    """Read ``count`` uniform face crops ``(F, H, W, 3)`` uint8 RGB from an ``.npy`` of ``(T, H, W, 3)`` uint8.

    Only these crops are read from disk; ``channel_order`` is that of the file.

    Raises:
        MediaError: The file is not such an array, or holds no crops.
    """
    try:
        crops = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header also raises RecursionError, OverflowError, TypeError, ...
        raise MediaError(f"{path}: cannot be read as face crops: {error}") from error
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or 0 in crops.shape:
        raise MediaError(f"{path}: face crops must be uint8 (T, H, W, 3), not {crops.dtype} {crops.shape}")
    if crops.shape[1] * crops.shape[2] > _MOST_CROP_PIXELS:
        raise MediaError(f"{path}: face crops of {crops.shape[1]} by {crops.shape[2]} pixels are too large")
    chosen = crops[uniform_indices(crops.shape[0], count)]
    return np.ascontiguousarray(chosen[..., ::-1] if channel_order == "bgr" else chosen)


def resize_faces(crops: Frames, size: int, rule: FaceResize = "antialias") -> Tensor:
    """Scale face crops straight to ``(F, 3, size, size)`` uint8, bilinear.

    Args:
        crops: ``(F, H, W, 3)``.
        size: Height and width in pixels.
        rule: ``cv2`` as the published loader, bit for bit; ``antialias`` averages what a smaller size merges.
    """
    if rule == "cv2":
        return channels_first(cv2_resize(crops, size))
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2)
    return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)


def resize_frames(frames: Frames, size: int) -> Tensor:
    """Scale the shortest edge to ``size`` (bicubic), crop the centre: CLIP's way; ``(F, 3, size, size)`` uint8."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    height, width = pixels.shape[-2:]
    scaled = tuple(edge * size // min(height, width) for edge in (height, width))
    resized = F.interpolate(pixels, size=scaled, mode="bicubic", antialias=True)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return resized[..., top : top + size, left : left + size].contiguous()


def squash_still(picture: Frames, size: int) -> Frames:
    """Scale one picture to ``(size, size, 3)`` by Pillow's bicubic filter, as the published loader reads stills."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def padded_square(picture: Frames) -> Frames:
    """Return a picture in the middle of a grey square, as HumanOmni's training has it."""
    height, width = picture.shape[:2]
    edge = max(height, width)
    square = np.full((edge, edge, 3), 127, np.uint8)
    top, left = (edge - height) // 2, (edge - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def channels_first(frames: Frames) -> Tensor:
    """Return ``(F, H, W, 3)`` as a contiguous tensor ``(F, 3, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
