"""Keep a large manifest as files that all processes map, so that the next start need not read labels and media again.

What is kept is what passed every check. It is found by a digest of the label files' contents, of the settings and of
the dates of the media folders; a media file that was written to in place is noticed by ``data.recheck=true`` alone.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.io.files import replacing
from affectgpt_r1.io.untrusted_files import read_json

log = logging.getLogger(__name__)

FORMAT = 1  # to be raised where label files are read or checked differently
ROWS, OFFSETS, NAMES, MEDIA, COUNTS = "rows.jsonl", "offsets.npy", "names.txt", "media.npy", "splits.json"


class PackedRows(Sequence[ManifestRow]):
    """Rows of a packed manifest, each made when it is asked for.

    Args:
        folder: That :func:`pack_splits` wrote.
        which: Positions in it; None for all.
    """

    def __init__(self, folder: Path, which: range | None = None) -> None:
        self.folder = folder
        self._rows = np.memmap(folder / ROWS, np.uint8, "r")
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r")
        self._which = range(len(self._offsets) - 1) if which is None else which

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedRows, (self.folder, self._which)  # spawned workers map the files themselves

    def __len__(self) -> int:
        return len(self._which)

    @overload
    def __getitem__(self, key: int) -> ManifestRow: ...

    @overload
    def __getitem__(self, key: slice) -> PackedRows: ...

    def __getitem__(self, key: int | slice) -> ManifestRow | PackedRows:
        if isinstance(key, slice):
            return PackedRows(self.folder, self._which[key])
        position = self._which[key]
        start, end = self._offsets[position : position + 2].tolist()
        return _row(json.loads(self._rows[start:end].tobytes()))

    def __iter__(self) -> Iterator[ManifestRow]:
        if self._which.step == 1:  # by line: ten times as fast as one by one
            with (self.folder / ROWS).open("rb") as file:
                file.seek(int(self._offsets[self._which.start]))
                for _ in self._which:
                    yield _row(json.loads(file.readline()))
            return
        for number in range(len(self)):
            yield self[number]

    def joined(self, *following: PackedRows) -> PackedRows:
        """Return these rows and those of the splits that follow, of the same manifest."""
        return PackedRows(self.folder, range(self._which.start, following[-1]._which.stop))

    def names(self) -> list[str]:
        """Return the name of every row."""
        names = (self.folder / NAMES).read_text("utf-8").split("\n")
        return names[self._which.start : self._which.stop : self._which.step]

    def identities(self) -> list[str]:
        """Return the identity of every row's media when they were looked at."""
        media = np.load(self.folder / MEDIA, mmap_mode="r")
        found: list[str] = media[self._which.start : self._which.stop : self._which.step].astype(str).tolist()
        return found


def pack_splits(
    folder: Path, splits: Sequence[Sequence[ManifestRow]], identities: Mapping[str, str], elsewhere: str
) -> None:
    """Write the rows of all splits, and the identities of their media, to a folder, in place of what it holds."""
    rows = [row for split in splits for row in split]
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    lines = [encode(_fields(row)).encode() + b"\n" for row in rows]
    shutil.rmtree(folder, ignore_errors=True)  # what stays of it makes the next line fail
    with replacing(folder, flush=False, elsewhere=elsewhere) as partial:
        partial.mkdir(parents=True)
        with (partial / ROWS).open("wb") as file:
            file.writelines(lines)
        np.save(partial / OFFSETS, np.cumsum([0, *map(len, lines)], dtype=np.int64))
        np.save(partial / MEDIA, np.array([identities[row.name] for row in rows], "S16"))
        (partial / NAMES).write_text("\n".join(row.name for row in rows), "utf-8")
        checksums = {name: _checksum(partial / name) for name in (ROWS, OFFSETS, NAMES, MEDIA)}
        (partial / COUNTS).write_text(json.dumps({"splits": [len(split) for split in splits], "crc32": checksums}))


def read_packed_splits(folder: Path) -> list[PackedRows] | None:
    """Return what :func:`pack_splits` wrote; None where there is nothing, or it is damaged, which is logged."""
    try:
        written = read_json(folder / COUNTS)
        for name, checksum in written["crc32"].items():
            if _checksum(folder / name) != checksum:
                raise ValueError(f"{name} is not what its checksum says")
        ends = np.cumsum(written["splits"]).tolist()
        every = PackedRows(folder)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: damaged, and the label files are read again: %s", folder, error)
        return None
    return [every[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _fields(row: ManifestRow) -> list[Any]:
    return [row.name, row.labels, row.reason, row.subtitle, row.row, dict(row.annotations)]


def _row(fields: list[Any]) -> ManifestRow:
    name, labels, reason, subtitle, row, annotations = fields
    return ManifestRow(name, tuple(labels), reason, subtitle, row, annotations)
