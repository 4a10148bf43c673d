"""Cache frozen-encoder outputs on disk, so that a clip's media are decoded and encoded once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import ENOSPC
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.io.files import clear_write_errors, write_text
from affectgpt_r1.io.untrusted_files import read_json
from affectgpt_r1.types import ClipBatch, UnreadableClip

log = logging.getLogger(__name__)

ELSEWHERE = "choose another paths.features="
LONGEST_NAME = 200  # bytes; NAME.mp4 fits into the 255 of a file name, NAME.unreadable need not
FEATURES, INDEX, LAYOUT, CHECKED = "features.f16", "index.bin", "layout.json", "checked.json"  # files of a pack
_SMALL = 256  # clips of a pack for which no number was reserved
_RECORD = np.dtype([("key", "<u8"), ("media", "<u8"), ("sum", "<u8"), ("done", "<u8")])


class FeatureStore:
    """Features of clips as 16-bit numbers, in packs that one process each fills and that grow no more.

    A pack holds equally shaped features in one array, and an index with a record for each clip: hashes of its name and
    of its media's identity, a checksum, and a flag that is written last. What is damaged counts as missing, and its
    clip is encoded again, into a new pack: the newest features of a clip are read. Clips that are unreadable have a
    text each that says why. A folder belongs to one set of encoder weights and media settings, whose digest is its
    name; it is made on the first write.

    Attributes:
        damaged: Names of clips that :meth:`lacking` found damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._contents: _Contents | None = None
        self._is_current = False  # no clip was written or taken out since its contents were read
        self._writer: _Writer | None = None
        self._reserved = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, (self.folder,)  # spawned workers open its files themselves

    def lacking(self, names: Sequence[str], media: Sequence[str]) -> list[int]:
        """Return the positions of those clips whose features are not stored, or are of other media than ``media``."""
        contents, keys = self._load(), _hashes(names)
        missing: list[int] = np.flatnonzero(~contents.hold(keys, _hashes(media))).tolist()
        self.damaged += [names[position] for position in missing if int(keys[position]) in contents.damaged]
        return missing

    def has(self, name: str, media: str = "") -> bool:
        """Return whether a clip's features are stored; ``media`` is the identity of its files as they are now."""
        return not self.lacking([name], [media])

    def is_unreadable(self, name: str, media: str = "") -> bool:
        """Return whether a clip's media, as they are now, are recorded as unreadable."""
        record = self._read_unreadable(name)
        return record is not None and record[0] == media

    def read(self, name: str) -> dict[str, Tensor]:
        """Read a clip's features by modality, ``(F, D_video)`` and ``(W, D_audio)``, as float32.

        Raises:
            MediaError: Its media could not be read when the store was filled.
            DataError: They are not stored, or damaged.
        """
        key = _hash(name)
        contents = self._contents if self._is_current and self._contents else self._load()
        if (place := contents.place(key)) is None:  # another process may have written it
            contents = self._load()
            place = contents.place(key)
        if place is None:
            if record := self._read_unreadable(name):
                raise MediaError(record[1])
            damaged = " undamaged" if key in contents.damaged else ""
            raise DataError(f"{self.folder}: holds no{damaged} features of {name!r}; fill the feature store first")
        pack, slot = place
        if not pack.read(slot):
            pack.forget(slot)
            self._is_current = False
            raise DataError(
                f"{pack.folder / FEATURES}: the features of {name!r} are damaged; the same command encodes its clip "
                "again"
            )
        return {part: halves.float() for part, halves in pack.halves.items()}

    def reserve(self, num_clips: int) -> None:
        """Let the next clips be written into one new pack of so many."""
        self._writer, self._reserved = None, num_clips

    def write(self, name: str, features: Mapping[str, Tensor], media: str = "") -> None:
        """Store a clip's features and the identity of the media that they were made of.

        Raises:
            DataError: A value has no 16-bit number.
        """
        shapes = {key: tuple(value.shape) for key, value in sorted(features.items())}
        values = [features[key].detach().flatten().cpu() for key in shapes]
        halves = torch.cat([torch.zeros(0), *values]).to(torch.float16)  # of a clip of which only text is read: none
        if halves.isinf().any() and not any(value.isinf().any() for value in values):
            raise DataError(
                f"{self.folder}: the features of {name!r} reach {max(float(value.abs().max()) for value in values):g}, "
                "beyond 16-bit numbers; data.feature_store=null encodes clips at every step"
            )
        if self._writer is None or not self._writer.takes(shapes):
            self.finish()
            self._writer = _Writer(self.folder, shapes, self._reserved or _SMALL)
            self._reserved = 0
        self._writer.append(_hash(name), _hash(media), halves.numpy().tobytes())
        self._is_current = False
        self._unreadable_file(name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Record that what was written is undamaged, so that the next start need not read it."""
        if self._writer is not None:
            _mark_checked(self._writer.folder)
        self._writer, self._contents = None, None
        self._is_current = False

    def mark_unreadable(self, clip: UnreadableClip, media: str = "") -> None:
        """Record that a clip's media cannot be read, in place of features of other media."""
        write_text(self._unreadable_file(clip.name), f"{media}\n{clip.reason}", flush=False, elsewhere=ELSEWHERE)
        self._contents = self._contents or _read_contents(self.folder)
        for pack in (*self._contents.packs, *([self._writer.pack] if self._writer else [])):
            for slot in np.flatnonzero(pack.records["key"] == _hash(clip.name)):
                pack.forget(int(slot))
        self._is_current = False
        self._older_file(clip.name).unlink(missing_ok=True)

    def take_over(self, name: str, media: str = "") -> bool:
        """Write a clip's features from the file of its own that earlier versions kept; False where there is none.

        The older file stays, for the earlier version.
        """
        try:
            data = self._older_file(name).read_bytes()
            features = load(data)
            stored = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["media"]
        except (FileNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
            return False  # damaged ones are encoded again
        if stored == media:
            self.write(name, features, media)
        return bool(stored == media)

    def unreadable(self, names: Sequence[str], media: Sequence[str]) -> set[str]:
        """Return those clips whose media, as they are now, are recorded as unreadable."""
        recorded = {path.name for path in self.folder.glob("[0-9a-f][0-9a-f]/*.unreadable")}
        return {
            name
            for name, identity in zip(names, media, strict=True)
            if recorded and self._unreadable_file(name).name in recorded and self.is_unreadable(name, identity)
        }

    def _load(self) -> _Contents:
        contents = self._contents = _read_contents(self.folder)
        self._is_current = True
        return contents

    def _read_unreadable(self, name: str) -> tuple[str, str] | None:
        """Return identity of the media, and why they cannot be read."""
        try:
            media, _, reason = self._unreadable_file(name).read_text("utf-8", errors="replace").partition("\n")
        except FileNotFoundError:
            return None
        return media, reason

    def _unreadable_file(self, name: str) -> Path:
        return self._older_file(name).with_suffix(".unreadable")

    def _older_file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        stem = name if len(name.encode()) <= LONGEST_NAME else digest
        return self.folder / digest[:2] / f"{stem}.safetensors"


class _Pack:
    """A pack's index in memory, and its features on disk; only one thread may read it.

    Attributes:
        halves: The features that were read last, by modality.
    """

    def __init__(self, folder: Path) -> None:
        """Open a pack.

        Raises:
            ValueError: Its layout is damaged.
            OSError: A file cannot be read.
        """
        self.folder = folder
        shapes = read_json(folder / LAYOUT)
        sizes = [math.prod(shape) for shape in shapes.values()]
        self.stride = _padded(2 * sum(sizes))
        # One buffer for all reads: to allocate it and its views each time would take as long as the read.
        self._words = np.zeros(self.stride // 8, "<u8")
        self._buffers = [self._words.view(np.uint8).data]
        parts = torch.split(torch.from_numpy(self._words.view("<f2"))[: sum(sizes)], sizes)
        self.halves = {key: part.view(*shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}
        index = (folder / INDEX).read_bytes()
        self.records = np.frombuffer(index[: len(index) // _RECORD.itemsize * _RECORD.itemsize], _RECORD).copy()
        # Read by calls, not by a memory map, which would end the process where a disk fails.
        self._descriptor = os.open(folder / FEATURES, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._advise("RANDOM")

    def read(self, slot: int) -> bool:
        """Read a clip's features into :attr:`halves`, and return whether they are what was written."""
        size = os.preadv(self._descriptor, self._buffers, slot * self.stride)
        key, media, checksum, done = self.records.item(slot)
        return bool(done == 1 and size == self.stride and _checksum(self._words, key, media) == checksum)

    def forget(self, slot: int) -> None:
        """Take a clip's features out."""
        self.records["done"][slot] = 0
        _write(self.folder / INDEX, self.records[slot].tobytes(), slot * _RECORD.itemsize)

    def check(self) -> list[int]:
        """Take out damaged clips, in memory alone, and return their slots."""
        stored = np.flatnonzero(self.records["done"]).tolist()
        self._advise("SEQUENTIAL")
        damaged = [slot for slot in stored if not self.read(slot)]
        self._advise("RANDOM")
        self.records["done"][damaged] = 0
        return damaged

    def _advise(self, order: str) -> None:
        """Tell the system in which order clips are read, so that it reads ahead, or no more than is asked for."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self._descriptor, 0, 0, getattr(os, f"POSIX_FADV_{order}"))


class _Contents(NamedTuple):
    """Where the newest features of every clip are."""

    packs: list[_Pack]
    keys: NDArray[np.uint64]  # in ascending order
    media: NDArray[np.uint64]
    places: NDArray[np.int64]  # pack and slot
    damaged: set[int]  # keys

    def hold(self, keys: NDArray[np.uint64], media: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which of ``N`` clips are here, with these media."""
        if not len(self.keys):
            return np.zeros(len(keys), bool)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        held: NDArray[np.bool_] = (self.keys[positions] == keys) & (self.media[positions] == media)
        return held

    def place(self, key: int) -> tuple[_Pack, int] | None:
        position = self.keys.searchsorted(np.uint64(key))
        if position == len(self.keys) or self.keys.item(position) != key:
            return None
        place = self.places.item(position)
        return self.packs[place >> 32], place & 0xFFFFFFFF


def _read_contents(folder: Path) -> _Contents:
    """Read the indices of all packs, and check the features of those that were not left checked."""
    packs, damaged = [], set()
    for path in sorted(folder.glob("*.pack")):  # the newest last
        try:
            pack = _Pack(path)
        except FileNotFoundError:
            continue  # no clip was written yet
        except (ValueError, TypeError, AttributeError, RuntimeError, MemoryError, OSError) as error:
            log.warning("%s: damaged, and its clips are encoded again: %s", path, error)
            continue
        state = _state(path)
        if _checked(path) != state:
            bad = pack.check()
            damaged |= {int(pack.records["key"][slot]) for slot in bad}
            if os.access(path, os.W_OK):  # else the next start checks it again
                for slot in bad:
                    pack.forget(slot)
                if not bad:
                    _mark_checked(path, state)
        packs.append(pack)
    records = np.concatenate([pack.records for pack in packs]) if packs else np.zeros(0, _RECORD)
    places = [(number << 32) + np.arange(len(pack.records)) for number, pack in enumerate(packs)]
    place = np.concatenate(places) if packs else np.zeros(0, np.int64)
    done = records["done"] > 0
    records, place = records[done], place[done]
    order = np.argsort(records["key"], kind="stable")
    keys = records["key"][order]
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return _Contents(packs, keys[last], records["media"][order][last], place[order][last], damaged)


class _Writer:
    """Fills a new pack, clip after clip; only this process writes to it."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], num_clips: int) -> None:
        # Names in the order of time, so that the newest features are known; unique among machines.
        self.folder = folder / f"{time.time_ns():020d}-{uuid4().hex[:12]}.pack"
        self._shapes, self._next = dict(shapes), 0
        stride = _padded(2 * sum(math.prod(shape) for shape in shapes.values()))
        with clear_write_errors(self.folder, ELSEWHERE):
            self.folder.mkdir(parents=True)
            # Files as long as they will be, which take room on the disk as they are filled.
            if shutil.disk_usage(folder).free < num_clips * stride:
                raise OSError(ENOSPC, f"{num_clips * stride / 2**30:.1f} GiB are needed: {os.strerror(ENOSPC)}")
            for name, size in ((FEATURES, stride), (INDEX, _RECORD.itemsize)):
                with (self.folder / name).open("wb") as file:
                    file.truncate(num_clips * size)
        write_text(self.folder / LAYOUT, json.dumps(shapes), flush=False, elsewhere=ELSEWHERE)
        self.pack = _Pack(self.folder)

    def takes(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        return self._next < len(self.pack.records) and shapes == self._shapes

    def append(self, key: int, media: int, data: bytes) -> None:
        slot, pack = self._next, self.pack
        data = data.ljust(pack.stride, b"\0")
        record = pack.records[slot : slot + 1]
        record["key"], record["media"], record["done"] = key, media, 1
        record["sum"] = _checksum(np.frombuffer(data, "<u8"), key, media)
        _write(self.folder / FEATURES, data, slot * pack.stride)
        _write(self.folder / INDEX, record.tobytes(), slot * _RECORD.itemsize)
        self._next += 1


def _write(path: Path, data: bytes, offset: int) -> None:
    with clear_write_errors(path, ELSEWHERE), path.open("r+b", buffering=0) as file:
        file.seek(offset)
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]


def _padded(num_bytes: int) -> int:
    return max(8, -(-num_bytes // 8) * 8)


def _checksum(words: NDArray[np.uint64], key: int, media: int) -> int:
    """Return a sum of a clip's features and its record, against damage by a disk, not by an attacker."""
    # Of 64-bit words: a CRC-32 would take longer than the read.
    return (int(np.add.reduce(words)) + 3 * key + 5 * media + words.nbytes) % 2**64


def _hash(text: str) -> int:
    # Two of 132,000 clips have the same one with a probability of 5e-10.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8")


def _state(pack: Path) -> str:
    """Return sizes and dates of a pack's files: none was written to where they are the same."""
    statuses = [(pack / name).stat() for name in (FEATURES, INDEX)]
    return json.dumps([[status.st_size, status.st_mtime_ns] for status in statuses])


def _checked(pack: Path) -> str:
    try:
        return (pack / CHECKED).read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _mark_checked(pack: Path, state: str = "") -> None:
    write_text(pack / CHECKED, state or _state(pack), flush=False, elsewhere=ELSEWHERE)


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
