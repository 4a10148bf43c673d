"""Frozen-tower outputs on disk, so that a clip's media are decoded and encoded once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from affectgpt_r1.data.skipped import SkippedClips
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.types import ClipBatch, SkippedClip


class FeatureStore:
    """One safetensors file a clip, or a text that says why it could not be read, in 256 subfolders by its name's hash.

    Files are written beside their place and moved there, so that a clip is there whole or not at all. The folder
    belongs to one set of tower weights and one way of preparing media; whoever opens it names it after their digest.

    Args:
        folder: The store, made on the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str, newest: int = 0) -> bool:
        """Whether the clip's features are stored, not before its media changed, ``newest`` nanoseconds since 1970."""
        return _is_current(self._file(name), newest)

    def has_refused(self, name: str, newest: int = 0) -> bool:
        """Whether the clip is recorded as unreadable, not before its media changed."""
        return _is_current(self._refusal(name), newest)

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
            if self.has_refused(name):
                raise MediaError(self._refusal(name).read_text("utf-8")) from error
            raise DataError(f"{self.folder}: holds no features of {name!r}; fill the feature store first") from error
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: cannot be read as features ({error}); delete it and fill the store") from error

    def write(self, name: str, features: Mapping[str, Tensor]) -> None:
        """Store a clip's features."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in features.items()}
        _write_whole(self._file(name), lambda scratch: save_file(tensors, scratch))
        self._refusal(name).unlink(missing_ok=True)

    def refuse(self, clip: SkippedClip) -> None:
        """Record that a clip's media cannot be read, in place of features of older media."""
        _write_whole(self._refusal(clip.name), lambda scratch: scratch.write_text(clip.reason, "utf-8"))
        self._file(clip.name).unlink(missing_ok=True)

    def _refusal(self, name: str) -> Path:
        return self._file(name).with_suffix(".unreadable")

    def _file(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:2] / f"{name}.safetensors"


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        write(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _is_current(stored: Path, newest: int) -> bool:
    try:
        return stored.stat().st_mtime_ns >= newest
    except FileNotFoundError:
        return False


def store_features(
    store: FeatureStore, batches: Iterable[ClipBatch], encode: Callable[[ClipBatch], Mapping[str, Tensor]]
) -> SkippedClips:
    """Encode batches one by one and store each clip's rows.

    Args:
        store: Where to.
        batches: Batches with media; clips that could not be read stand in their ``skipped``.
        encode: Gives ``{"video": (B, F, D_video), "audio": (B, W, D_audio)}`` of a batch of at least one clip.

    Returns:
        The account of the clips that could not be read; they are also recorded in the store.
    """
    account = SkippedClips()
    for batch in batches:
        account.add_batch(batch)
        for clip in batch.skipped:
            store.refuse(clip)
        if len(batch):
            features = encode(batch)
            for position, name in enumerate(batch.names):
                store.write(name, {key: value[position] for key, value in features.items()})
    return account
