"""Frozen-tower outputs on disk, so that a clip's media are decoded and encoded once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from affectgpt_r1.data.skipped import SkippedClips
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import ClipBatch, SkippedClip


class FeatureStore:
    """One safetensors file a clip, in 256 subfolders by the hash of its name.

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
        return name in self.unreadable and _is_current(self._record, newest)

    def read(self, name: str) -> dict[str, Tensor]:
        """A clip's features by modality, ``(F, D_video)`` and ``(W, D_audio)``.

        Raises:
            DataError: They are not stored, or the file is damaged.
        """
        path = self._file(name)
        try:
            return load_file(path)
        except FileNotFoundError as error:
            raise DataError(f"{self.folder}: holds no features of {name!r}; fill the feature store first") from error
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: cannot be read as features ({error}); delete it and fill the store") from error

    def write(self, name: str, features: Mapping[str, Tensor]) -> None:
        """Store a clip's features."""
        path = self._file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.detach().cpu().contiguous() for key, value in features.items()}
        scratch = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            save_file(tensors, scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Clips whose media could not be read when the store was filled, and why."""
        if not self._record.exists():
            return {}
        record: dict[str, str] = json.loads(self._record.read_text("utf-8"))
        return record

    def forget_unreadable(self) -> None:
        """Let ``unreadable`` be read anew, with what other processes have recorded."""
        self.__dict__.pop("unreadable", None)

    def record_unreadable(self, clips: Iterable[SkippedClip]) -> None:
        """Add clips to ``unreadable``; processes that fill the store together may all do so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._record}.lock"):
            self.forget_unreadable()
            self.unreadable.update({clip.name: clip.reason for clip in clips})
            scratch = self._record.with_suffix(".part")
            scratch.write_text(json.dumps(self.unreadable, indent=1, sort_keys=True, ensure_ascii=False), "utf-8")
            os.replace(scratch, self._record)

    @property
    def _record(self) -> Path:
        return self.folder / "unreadable.json"

    def _file(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:2] / f"{name}.safetensors"


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
        if batch.skipped:
            store.record_unreadable(batch.skipped)
        if len(batch):
            features = encode(batch)
            for position, name in enumerate(batch.names):
                store.write(name, {key: value[position] for key, value in features.items()})
    return account
