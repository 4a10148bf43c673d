"""Frozen-encoder outputs on disk, so that a clip's media are decoded and encoded once."""

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

MEDIA_KEY, CHECKSUM_KEY = "media", "crc32"
"""Under which a stored file's metadata keep the identity of the media, and the checksum of the features."""

ELSEWHERE = "choose another paths.features="

LONGEST_NAME = 200
"""Bytes of a clip name that a stored file can be named after."""


class FeatureStore:
    """One safetensors file a clip, or a text that says why it could not be read, in 256 subfolders by its name's hash.

    Files are written beside their place and moved there, so that a clip is there whole or not at all. Each says which
    media it was made of, and has a checksum: one that a disk or a copy damaged counts as missing, and its clip is
    encoded again. The folder belongs to one set of encoder weights and one way of preparing media; whoever opens
    it names it after their digest.

    Args:
        folder: The store, made on the first write.

    Attributes:
        damaged: Names of clips that :meth:`has` found damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []

    def has(self, name: str, media: str = "") -> bool:
        """Whether the features of a clip's media are stored; see :attr:`~affectgpt_r1.data.media_index.MediaState`.

        Args:
            name: Clip name.
            media: Identity of the media files as they are now.
        """
        try:
            return _read_whole(self._file(name))[1] == media
        except FileNotFoundError:
            return False
        except ValueError:
            self.damaged.append(name)
            return False

    def is_unreadable(self, name: str, media: str = "") -> bool:
        """Whether a clip's media, as they are now, are recorded as unreadable."""
        refusal = self._read_refusal(name)
        return refusal is not None and refusal[0] == media

    def read(self, name: str) -> dict[str, Tensor]:
        """A clip's features by modality, ``(F, D_video)`` and ``(W, D_audio)``.

        Raises:
            MediaError: Its media could not be read when the store was filled.
            DataError: They are not stored, or the file is damaged.
        """
        path = self._file(name)
        try:
            return _read_whole(path)[0]
        except FileNotFoundError as error:
            if refusal := self._read_refusal(name):
                raise MediaError(refusal[1]) from error
            raise DataError(f"{self.folder}: holds no features of {name!r}; fill the feature store first") from error
        except (ValueError, OSError) as error:
            raise DataError(
                f"{path}: cannot be read as features ({error}); the same command encodes its clip again"
            ) from error

    def write(self, name: str, features: Mapping[str, Tensor], media: str = "") -> None:
        """Store a clip's features, and which media they were made of."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in features.items()}
        with replacing(self._file(name), flush=False, elsewhere=ELSEWHERE) as partial:
            save_file(tensors, partial, {MEDIA_KEY: media, CHECKSUM_KEY: _checksum(tensors)})
        self._refusal(name).unlink(missing_ok=True)

    def refuse(self, clip: UnreadableClip, media: str = "") -> None:
        """Record that a clip's media cannot be read, in place of features of other media."""
        write_text(self._refusal(clip.name), f"{media}\n{clip.reason}", flush=False, elsewhere=ELSEWHERE)
        self._file(clip.name).unlink(missing_ok=True)

    def _read_refusal(self, name: str) -> tuple[str, str] | None:
        """Identity of the media, and why they cannot be read."""
        try:
            media, _, reason = self._refusal(name).read_text("utf-8", errors="replace").partition("\n")
        except FileNotFoundError:
            return None
        return media, reason

    def _refusal(self, name: str) -> Path:
        return self._file(name).with_suffix(".unreadable")

    def _file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        # `NAME.mp4` fits into the 255 bytes of a file name, `NAME.safetensors` need not.
        stem = name if len(name.encode()) <= LONGEST_NAME else digest
        return self.folder / digest[:2] / f"{stem}.safetensors"


def _read_whole(path: Path) -> tuple[dict[str, Tensor], str]:
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
    """Return a CRC-32 of names, types, shapes and values: it finds the damage of a disk, not that of an enemy."""
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
    """Encode batches one by one and store each clip's rows.

    Args:
        store: Where to.
        batches: Batches with media; clips that could not be read stand in their ``skipped``.
        encode: Gives ``{"video": (B, F, D_video), "audio": (B, W, D_audio)}`` of a batch of at least one clip.
        media: Identity of every clip's media files as they were before they were read; None where nobody asks for it.

    Returns:
        The account of the clips that could not be read; they are also recorded in the store.
    """
    identity = media or {}
    account = UnreadableClips()
    for batch in batches:
        account.add_batch(batch)
        for clip in batch.skipped:
            store.refuse(clip, identity.get(clip.name, ""))
        if len(batch):
            features = encode(batch)
            for position, name in enumerate(batch.names):
                rows = {key: value[position] for key, value in features.items()}
                store.write(name, rows, identity.get(name, ""))
    return account
