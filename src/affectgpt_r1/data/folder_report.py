"""Look through a data folder without training: every fault of its label files and media at once.

Label files are judged by the data module's own checks, and files that look damaged by the readers' own decoding, so
that nothing is reported that training would accept.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.data.dataset import ClipDataset
from affectgpt_r1.data.layouts.manifest import ManifestRow, hash_order
from affectgpt_r1.data.media.quick_look import Look, quick_look
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.data.splits import Splits
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import UnreadableClip

_MOST_DOUBTFUL = 256  # clips that are decoded because a file looks damaged; of more the first ones tell
_SECONDS = 20.0  # of decoding; a clip takes about 20 ms, and a damaged one up to a minute
_THREADS = 16  # that wait for a network disk
_SLOW_SECONDS = 0.001  # for a file: of a network disk
_FILES_AT_ONCE = 256


@dataclass
class FolderReport:
    """What is in a data folder, and what is wrong with it."""

    splits: Splits = field(default_factory=lambda: Splits([], [], []))  # clips whose media are all present
    faults: list[DataError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # that training would log
    files: Counter[str] = field(default_factory=Counter)  # media files by the folder that they are in
    num_bytes: int = 0
    crop_sizes: dict[tuple[int, ...], list[str]] = field(default_factory=dict)  # files by (height, width) of face crops
    num_decoded: int = 0  # clips
    unreadable: list[UnreadableClip] = field(default_factory=list)  # of those that were decoded
    doubtful: list[UnreadableClip] = field(default_factory=list)  # look damaged, and were not decoded


def report_folder(data: ClipDataModule, num_decoded: int) -> FolderReport:
    """Check label files and media of every clip, and decode those that look damaged and ``num_decoded`` others.

    Args:
        data: Not set up; it is not changed into one that can train.
        num_decoded: Clips, chosen by name; 0 decodes none, whatever they look like.
    """
    report = FolderReport()
    with collected_warnings(report.warnings):
        report.splits = data.read(report.faults.append)
    doubts = _look_at_files(data, report)
    rows = report.splits.rows()
    doubtful = [row for row in rows if row.name in doubts]
    sample = [row for row in hash_order(rows, salt="doctor")[:num_decoded] if row.name not in doubts]
    decoded = _decode(data, [*doubtful[:_MOST_DOUBTFUL], *sample] if num_decoded else [], report)
    report.unreadable = [_with_doubt(clip, doubts) for clip in report.unreadable]
    left = [row.name for row in doubtful if row.name not in decoded]
    report.doubtful = [UnreadableClip(name, ": ".join(doubts[name])) for name in left]
    return report


def _with_doubt(clip: UnreadableClip, doubts: Mapping[str, tuple[str, str]]) -> UnreadableClip:
    """Add to a reader's words what the file looks like, which may name its cause."""
    file, doubt = doubts.get(clip.name, ("", ""))
    return clip._replace(reason=f"{clip.reason} ({doubt})") if file and clip.reason.startswith(file) else clip


def _look_at_files(data: ClipDataModule, report: FolderReport) -> dict[str, tuple[str, str]]:
    """Count the files of every clip, and return for those of which one looks damaged that file and why, by name."""
    doubts: dict[str, tuple[str, str]] = {}
    root = str(data.root)
    files = [
        (name, place.format(name))
        for name, state in data.media_states.items()
        for place in dict.fromkeys(state.places)  # sound may be in the video
    ]
    parts = [files[start : start + _FILES_AT_ONCE] for start in range(_FILES_AT_ONCE, len(files), _FILES_AT_ONCE)]
    report.num_bytes = sum(sum(state.sizes) for state in data.media_states.values())

    def look_at(part: list[tuple[str, str]]) -> list[Look]:
        return [quick_look(f"{root}/{file}") for _, file in part]

    started = time.perf_counter()
    first = look_at(files[:_FILES_AT_ONCE])
    is_slow = time.perf_counter() - started > _SLOW_SECONDS * len(first)
    # On a fast disk threads would mostly wait for each other.
    with ThreadPoolExecutor(_THREADS if is_slow else 1) as pool:
        looks = chain([first], pool.map(look_at, parts))
        for (name, file), look in zip(files, chain.from_iterable(looks), strict=True):
            report.files[file.partition("/")[0]] += 1
            if look.doubt:
                doubts.setdefault(name, (f"{root}/{file}", look.doubt))
            elif look.crop_size:
                report.crop_sizes.setdefault(look.crop_size, []).append(file)
    return doubts


def _decode(data: ClipDataModule, rows: Sequence[ManifestRow], report: FolderReport) -> set[str]:
    """Read clips as training does, for some seconds; return the names of those that were read or refused."""
    clips = ClipDataset(rows, Path(data.root), data.media, seed=0)
    stop = time.monotonic() + _SECONDS
    for number in range(len(rows)):
        if time.monotonic() > stop:
            break
        clip = clips[SampleKey(number, 0)]
        report.num_decoded += 1
        if isinstance(clip, UnreadableClip):
            report.unreadable.append(clip)
    return {row.name for row in rows[: report.num_decoded]}


@contextmanager
def collected_warnings(warnings: list[str]) -> Iterator[None]:
    """Append what this package logs as a warning to a list instead of printing it."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    logger, collector = logging.getLogger("affectgpt_r1"), Collector(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagates
