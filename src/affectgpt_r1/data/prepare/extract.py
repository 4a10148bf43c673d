"""Extract sound and face crops of many clips, by several processes, and remember what was done."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch

from affectgpt_r1.data.layouts.mer import AUDIO_PLACES, FACE_PLACES, VIDEO_PLACES
from affectgpt_r1.data.media.audio import SAMPLE_RATE, read_waveform, resample
from affectgpt_r1.data.media.containers import inspect
from affectgpt_r1.data.media.decoding_process import in_decoding_process
from affectgpt_r1.data.prepare.crops import Faces, write_crops
from affectgpt_r1.data.prepare.find_clips import Clip
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.io.files import clear_write_errors, replacing, write_text
from affectgpt_r1.io.untrusted_files import parse_json

RECORD_FILE = "prepared.jsonl"
ELSEWHERE = "choose another --output"


@dataclass(frozen=True)
class Extraction:
    """What is made of each video."""

    faces: Faces = "detect"
    frames: int = 32  # that are searched for a face
    copy: bool = False  # videos, instead of links


@dataclass(frozen=True)
class Extracted:
    """What was made of one clip; by it a second run knows that there is nothing to do."""

    name: str
    source: str  # its files and their state when they were read
    settings: str
    frames: int = 0  # that were searched for a face; 0 without pictures
    faces: int = 0  # in how many the most prominent person was found
    people: int = 0
    seconds: float = 0.0  # of sound; 0 without
    text: str = ""  # of a subtitle track inside
    fault: str = ""  # why it cannot be read


def extract(output: Path, clip: Clip, extraction: Extraction) -> Extracted:
    """Link a clip's video into ``output``, and write its sound and face crops there."""
    video, wav, crops = _files(output, clip.name)
    for stale in (wav, crops):
        stale.unlink(missing_ok=True)
    state = Extracted(clip.name, source_of(clip), settings_of(extraction))
    frames = faces = people = 0
    seconds, text = 0.0, ""
    try:
        if clip.video is not None:
            streams = inspect(clip.video, with_text=True)
            text = streams.text
            if streams.has_video:
                _place(clip.video, video, copy=extraction.copy)
                frames = len(streams.picture_times)
                if extraction.faces != "none":
                    frames, faces, people = write_crops(clip.video, crops, extraction.frames, extraction.faces, streams)
            if streams.has_audio and clip.sound is None:
                seconds = _write_sound(clip.video, wav)
        if clip.sound is not None:
            seconds = _write_sound(clip.sound, wav)
    except MediaError as error:
        return _replaced(state, fault=str(error))
    return _replaced(state, frames=frames, faces=faces, people=people, seconds=round(seconds, 3), text=text)


def extract_all(output: Path, clips: Sequence[Clip], extraction: Extraction, workers: int) -> Iterator[Extracted]:
    """Yield what was made of each clip as soon as it is there, and append it to the record.

    A run that is stopped loses no finished clip.
    """
    with _appending(output / RECORD_FILE) as append:
        if workers <= 1:
            for clip in clips:
                yield append(extract(output, clip, extraction))
            return
        # Not forked: the parent's torch has threads.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), use_one_thread) as pool:
            try:
                for done in as_completed([pool.submit(extract, output, clip, extraction) for clip in clips]):
                    yield append(done.result())
            finally:
                pool.shutdown(cancel_futures=True)


def is_current(output: Path, clip: Clip, extraction: Extraction, known: Extracted | None) -> bool:
    """Return whether an earlier run made of a clip what this one would, and its files are all there."""
    if known is None or (known.source, known.settings) != (source_of(clip), settings_of(extraction)):
        return False
    video, wav, crops = _files(output, clip.name)
    wanted = [(video, bool(known.frames)), (wav, bool(known.seconds)), (crops, bool(known.faces))]
    return bool(known.fault) or all(file.exists() for file, is_made in wanted if is_made)


def read_record(output: Path) -> dict[str, Extracted]:
    """Read what earlier runs made, by clip name; the last line of a clip counts.

    Raises:
        DataError: The file holds something else.
    """
    path = output / RECORD_FILE
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    known: dict[str, Extracted] = {}
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                known[parse_json(line)["name"]] = Extracted(**parse_json(line))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                continue  # a run was killed while it wrote its last line; that clip is made again
            raise DataError(f"{path}: line {number} is not as `prepare` writes it; remove the file") from error
    return known


def write_record(output: Path, states: Iterable[Extracted]) -> None:
    """Write one line for each clip, unless the file has just these."""
    write_changed(output / RECORD_FILE, "".join(_line(state) for state in states))


def write_changed(path: Path, text: str) -> bool:
    """Write a text file unless it holds that text; return whether it was written."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    write_text(path, text, elsewhere=ELSEWHERE)
    return True


def source_of(clip: Clip) -> str:
    """Return a clip's files with size, time of change and inode, which tell a file that was replaced."""
    stats = [(str(path), path.stat()) for path in (clip.video, clip.sound) if path is not None]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats])


def settings_of(extraction: Extraction) -> str:
    """Return the settings as text that compares."""
    return json.dumps(asdict(extraction))


def _files(output: Path, name: str) -> tuple[Path, Path, Path]:
    video, wav, crops = (output / places[0].format(name) for places in (VIDEO_PLACES, AUDIO_PLACES, FACE_PLACES))
    return video, wav, crops


def _place(source: Path, target: Path, *, copy: bool) -> None:
    with clear_write_errors(target, ELSEWHERE):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if copy:
            shutil.copy2(source, target)
        else:
            target.symlink_to(source.resolve())


def _write_sound(source: Path, target: Path) -> float:
    """Write 16 kHz mono PCM16, and return its seconds."""
    waveform = _waveform(source)
    with replacing(target, flush=False, elsewhere=ELSEWHERE) as partial:
        soundfile.write(partial, waveform.clamp(-1, 1).numpy(), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return waveform.shape[0] / SAMPLE_RATE


@in_decoding_process
def _waveform(source: Path) -> torch.Tensor:
    waveform, rate = read_waveform(source)
    return resample(torch.from_numpy(waveform), rate)


def _replaced(state: Extracted, **changes: Any) -> Extracted:
    return Extracted(**{**asdict(state), **changes})


def _line(state: Extracted) -> str:
    return json.dumps(asdict(state), ensure_ascii=False) + "\n"


def use_one_thread() -> None:
    """Keep a worker from waiting for other workers' cores."""
    torch.set_num_threads(1)


class _Append:
    def __init__(self, file: Any) -> None:
        self._file = file

    def __call__(self, state: Extracted) -> Extracted:
        self._file.write(_line(state).encode())
        return state


@contextmanager
def _appending(path: Path) -> Iterator[_Append]:
    with clear_write_errors(path, ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            yield _Append(file)
            os.fsync(file.fileno())
