"""Find files that look damaged by their first bytes and their size, a hundred thousand of them in seconds.

A doubt is not a verdict: what a file really gives is for the readers to say, which decode it.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from affectgpt_r1.io.untrusted_files import npy_header

_START = 4096  # bytes, which hold the headers of wav and npy files and the first box of an mp4
_LFS_POINTER = b"version https://git-lfs"
_MOST_BOXES = 1000  # at the top of an mp4; fragmented ones have one pair for each second or so
_CUT = "the file is cut short"


class Look(NamedTuple):
    """What the first bytes of a file tell."""

    doubt: str = ""  # why it looks damaged; "" where it does not
    crop_size: tuple[int, ...] = ()  # (height, width) of face crops; () of other files


def quick_look(path: str) -> Look:
    """Look at a video, sound or face-crop file without decoding it.

    >>> quick_look("nowhere.mp4").doubt
    'No such file or directory'
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        return Look(error.strerror or str(error))
    try:
        size = os.fstat(descriptor).st_size
        start = os.pread(descriptor, _START, 0)
        if not size:
            return Look("the file is empty")
        if start.startswith(_LFS_POINTER):
            return Look("it is a pointer of Git LFS: fetch the file itself by `git lfs pull`")
        if start.lstrip()[:1] == b"<":
            return Look("it is a web page or XML: fetch it again")
        match path.rpartition(".")[2].lower():
            case "npy":
                return _look_at_crops(start, size)
            case "wav" | "avi":
                return Look(_doubt_about_riff(start, size))
            case "mp4" | "mov" | "m4v":
                # `prepare` links videos of other kinds by this name; decoders go by what a file holds.
                if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
                    return Look(_doubt_about_riff(start, size))
                is_matroska = start.startswith(b"\x1aE\xdf\xa3")
                return Look("" if is_matroska else _doubt_about_boxes(descriptor, size))
        return Look()
    except OSError as error:
        return Look(error.strerror or str(error))
    finally:
        os.close(descriptor)


def _look_at_crops(start: bytes, size: int) -> Look:
    try:
        header = npy_header(start)
    except ValueError as error:
        return Look(str(error))
    if header.descr != "|u1" or len(header.shape) != 4 or header.shape[3] != 3 or 0 in header.shape:
        return Look(f"it holds {header.descr} {header.shape}, not uint8 (T, H, W, 3)")
    return Look(_CUT if size < header.start + math.prod(header.shape) else "", header.shape[1:3])


def _doubt_about_riff(start: bytes, size: int) -> str:
    if start[:4] not in (b"RIFF", b"RF64", b"RIFX"):
        return "it does not start as its kind of file does"
    declared = int.from_bytes(start[4:8], "big" if start[:4] == b"RIFX" else "little")
    # Programs that write to a pipe cannot return to the header: 0 and the largest number are "until the end".
    return _CUT if start[:4] == b"RIFF" and 0 < declared < 0xFFFFFF00 and size < declared + 8 else ""


def _doubt_about_boxes(descriptor: int, size: int) -> str:
    """Walk the boxes at the top of an mp4: each must end within the file, and there must be an index (``moov``)."""
    offset, kinds = 0, set()
    for _ in range(_MOST_BOXES):
        header = os.pread(descriptor, 16, offset)
        if len(header) < 8:
            break
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if not offset and kind not in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"):
            return "it does not start as an mp4 does"
        kinds.add(kind)
        length = {0: size - offset, 1: int.from_bytes(header[8:16], "big")}.get(length, length)
        if length < 8 or offset + length > size:
            return _CUT
        offset += length
    return "" if b"moov" in kinds else "it has no index (moov): its recording or copying was cut off"
