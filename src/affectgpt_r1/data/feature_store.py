"""Cache frozen-encoder outputs on disk, so that a clip's media are decoded and encoded once."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.io.files import replacing, write_text
from affectgpt_r1.types import ClipBatch, UnreadableClip

MEDIA_KEY, CHECKSUM_KEY = "media", "crc32"  # in a stored file's metadata
ELSEWHERE = "choose another paths.features="
LONGEST_NAME = 200  # bytes; NAME.mp4 fits into the 255 of a file name, NAME.safetensors need not


class FeatureStore:
    """One safetensors file per clip, or a text that says why it is unreadable, in 256 subfolders by its name's hash.

    A file is written atomically, and records the identity of its media and a checksum: a damaged one counts as missing,
    and its clip is encoded again. A folder belongs to one set of encoder weights and media settings, whose digest is
    its name; it is made on the first write.

    Attributes:
        damaged: Names of clips that :meth:`has` found damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []

    def has(self, name: str, media: str = "") -> bool:
        """Return whether a clip's features are stored; ``media`` is the identity of its files as they are now."""
        try:
            return _read_features(self._file(name))[1] == media
        except FileNotFoundError:
            return False
        except ValueError:
            self.damaged.append(name)
            return False

    def is_unreadable(self, name: str, media: str = "") -> bool:
        """Return whether a clip's media, as they are now, are recorded as unreadable."""
        record = self._read_unreadable(name)
        return record is not None and record[0] == media

    def read(self, name: str) -> dict[str, Tensor]:
        """Read a clip's features by modality, ``(F, D_video)`` and ``(W, D_audio)``.

        Raises:
            MediaError: Its media could not be read when the store was filled.
            DataError: They are not stored, or the file is damaged.
        """
        path = self._file(name)
        try:
            return _read_features(path)[0]
        except FileNotFoundError as error:
            if record := self._read_unreadable(name):
                raise MediaError(record[1]) from error
            raise DataError(f"{self.folder}: holds no features of {name!r}; fill the feature store first") from error
        except (ValueError, OSError) as error:
            raise DataError(
                f"{path}: cannot be read as features ({error}); the same command encodes its clip again"
            ) from error

    def write(self, name: str, features: Mapping[str, Tensor], media: str = "") -> None:
        """Store a clip's features and the identity of the media that they were made of."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in features.items()}
        with replacing(self._file(name), flush=False, elsewhere=ELSEWHERE) as partial:
            save_file(tensors, partial, {MEDIA_KEY: media, CHECKSUM_KEY: _checksum(tensors)})
        self._unreadable_file(name).unlink(missing_ok=True)

    def mark_unreadable(self, clip: UnreadableClip, media: str = "") -> None:
        """Record that a clip's media cannot be read, in place of features of other media."""
        write_text(self._unreadable_file(clip.name), f"{media}\n{clip.reason}", flush=False, elsewhere=ELSEWHERE)
        self._file(clip.name).unlink(missing_ok=True)

    def _read_unreadable(self, name: str) -> tuple[str, str] | None:
        """Return identity of the media, and why they cannot be read."""
        try:
            media, _, reason = self._unreadable_file(name).read_text("utf-8", errors="replace").partition("\n")
        except FileNotFoundError:
            return None
        return media, reason

    def _unreadable_file(self, name: str) -> Path:
        return self._file(name).with_suffix(".unreadable")

    def _file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        stem = name if len(name.encode()) <= LONGEST_NAME else digest
        return self.folder / digest[:2] / f"{stem}.safetensors"


def _read_features(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read features, and the identity of their media.

    Raises:
        ValueError: The file is damaged.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        stored = json.loads(data[8 : 8 + length])["__metadata__"]
        media = str(stored[MEDIA_KEY])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"damaged: {error}") from error
    if stored.get(CHECKSUM_KEY) not in (None, _checksum(tensors)):  # older files have none
        raise ValueError("damaged: not what its checksum says")
    return tensors, media


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a CRC-32 of names, types, shapes and values, against damage by a disk, not by an attacker."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().tobytes(), crc)
    return f"{crc:08x}"


def store_features(
    store: FeatureStore,
    batches: Iterable[ClipBatch],
    encode: Callable[[ClipBatch], Mapping[str, Tensor]],
    media: Mapping[str, str] | None = None,
) -> UnreadableClips:
    """Encode batches and store each clip's rows; mark and count the clips that could not be read.

    Args:
        store: Is written to.
        batches: Batches with media.
        encode: Gives ``{"video": (B, F, D_video), "audio": (B, W, D_audio)}`` of a batch of at least one clip.
        media: Identity of every clip's media files as they were before they were read; None leaves it out.
    """
    identity = media or {}
    unreadable = UnreadableClips()
    for batch in batches:
        unreadable.add_batch(batch)
        for clip in batch.unreadable:
            store.mark_unreadable(clip, identity.get(clip.name, ""))
        if len(batch):
            features = encode(batch)
            for position, name in enumerate(batch.names):
                rows = {key: value[position] for key, value in features.items()}
                store.write(name, rows, identity.get(name, ""))
    return unreadable
