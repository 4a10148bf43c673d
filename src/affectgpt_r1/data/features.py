"""Frozen-tower outputs on disk, so that a clip's media are decoded and encoded once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from affectgpt_r1.data.skipped import SkippedClips
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.types import ClipBatch, SkippedClip

MEDIA_KEY = "media"
"""Under which a stored file's metadata keep the identity of the media."""

LONGEST_NAME = 200
"""Bytes of a clip name that a stored file can be named after."""

MOST_HEADER_BYTES = 1 << 20
"""A longer header is damaged; that of a clip's features takes 200 bytes."""


class FeatureStore:
    """One safetensors file a clip, or a text that says why it could not be read, in 256 subfolders by its name's hash.

    Files are written beside their place and moved there, so that a clip is there whole or not at all. Each says which
    media it was made of. The folder belongs to one set of tower weights and one way of preparing media; whoever opens
    it names it after their digest.

    Args:
        folder: The store, made on the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str, media: str = "") -> bool:
        """Whether the features of a clip's media are stored; see :attr:`~affectgpt_r1.data.media_state.MediaState`.

        Args:
            name: Clip name.
            media: Identity of the media files as they are now.
        """
        return _media_of(self._file(name)) == media

    def has_refused(self, name: str, media: str = "") -> bool:
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
            return load_file(path)
        except FileNotFoundError as error:
            if refusal := self._read_refusal(name):
                raise MediaError(refusal[1]) from error
            raise DataError(f"{self.folder}: holds no features of {name!r}; fill the feature store first") from error
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: cannot be read as features ({error}); delete it and fill the store") from error

    def write(self, name: str, features: Mapping[str, Tensor], media: str = "") -> None:
        """Store a clip's features, and which media they were made of."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in features.items()}
        _write_whole(self._file(name), lambda scratch: save_file(tensors, scratch, {MEDIA_KEY: media}))
        self._refusal(name).unlink(missing_ok=True)

    def refuse(self, clip: SkippedClip, media: str = "") -> None:
        """Record that a clip's media cannot be read, in place of features of other media."""
        text = f"{media}\n{clip.reason}"
        _write_whole(self._refusal(clip.name), lambda scratch: scratch.write_text(text, "utf-8"))
        self._file(clip.name).unlink(missing_ok=True)

    def _read_refusal(self, name: str) -> tuple[str, str] | None:
        """Identity of the media, and why they cannot be read."""
        try:
            media, _, reason = self._refusal(name).read_text("utf-8").partition("\n")
        except FileNotFoundError:
            return None
        return media, reason

    def _refusal(self, name: str) -> Path:
        return self._file(name).with_suffix(".unreadable")

    def _file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        # `NAME.mp4` fits into the 255 bytes of a file name, `NAME.safetensors.PROCESS` need not.
        stem = name if len(name.encode()) <= LONGEST_NAME else digest
        return self.folder / digest[:2] / f"{stem}.safetensors"


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        write(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _media_of(stored: Path) -> str | None:
    """Which media a stored file was made of; None without a readable file. Reads its header alone."""
    try:
        with stored.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        media = header["__metadata__"][MEDIA_KEY]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return str(media)


def store_features(
    store: FeatureStore,
    batches: Iterable[ClipBatch],
    encode: Callable[[ClipBatch], Mapping[str, Tensor]],
    media: Mapping[str, str] | None = None,
) -> SkippedClips:
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
    account = SkippedClips()
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
