"""Read labels and clips of the single-label sets DFEW, MAFW and RAVDESS from their published folders.

* DFEW, ``DFEW/EmoLabel_DataSplit/test(single-labeled)/set_K.csv``: ``video_name,label``, the classes numbered from 1;
  clips ``DFEW/Clip/original/**/00001.mp4``, also with unpadded names.
* MAFW, ``MAFW/Train & Test Set/single/no_caption/set_K/test.txt``: lines of a file name and a class; clips
  ``MAFW/data/clips/00001.mp4``.
* RAVDESS, ``RAVDESS/**/01-01-EE-*.mp4``: audio-visual speech, the third part of the name being the emotion.

The training folds of DFEW and MAFW are next to their test folds, with ``train`` for ``test``; RAVDESS has none. We have
not held the gated sets themselves, so a ``labels.csv`` (``train_labels.csv``) with ``name`` and ``label`` in the set's
folder takes precedence, and clips may be anywhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pandas as pd

from affectgpt_r1.data.layouts.manifest import check_format, read_columns
from affectgpt_r1.data.layouts.mer import is_safe_name
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.untrusted_files import read_text
from affectgpt_r1.metrics.functional.recognition import CLASSES, normalise_class

FOLDERS: Mapping[str, str] = {"dfew": "DFEW", "mafw": "MAFW", "ravdess": "RAVDESS"}
NUM_FOLDS = 5
_MOST_BYTES = 1 << 24  # of a fold's list
Split: TypeAlias = Literal["train", "test"]
_PLAIN: Mapping[Split, str] = {"train": "train_labels.csv", "test": "labels.csv"}
_DFEW_CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
_RAVDESS_CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_RAVDESS_NAME = re.compile(r"01-01-(\d\d)-\d\d-\d\d-\d\d-\d\d")


@dataclass(frozen=True)
class RecognitionSet:
    """The ``N`` training or test clips of one set."""

    name: str  # key of FOLDERS
    names: tuple[str, ...]  # without a suffix; five digits in DFEW and MAFW
    labels: tuple[str, ...]  # each of CLASSES[name]
    source: str  # of the labels, such as the file of a fold

    def __len__(self) -> int:
        return len(self.names)


def read_recognition_set(folder: Path, name: str, fold: int = 1, split: Split = "test") -> RecognitionSet:
    """Read the labels of one set.

    Args:
        folder: The set's own folder.
        name: Which set, a key of :data:`FOLDERS`.
        fold: Which of the five folds of DFEW and MAFW, from 1.
        split: Training or test clips of the fold.

    Raises:
        DataError: There is no such set, fold or split; or a file is missing or damaged, names a clip twice, or holds a
            label that is not a class. Names the file.
    """
    if name not in FOLDERS:
        raise DataError(f"there is no recognition set {name!r}: take one of {', '.join(FOLDERS)}")
    if fold not in range(1, NUM_FOLDS + 1):
        raise DataError(f"there is no fold {fold}: take 1 to {NUM_FOLDS}")
    plain = folder / _PLAIN[split]
    if plain.exists():
        return _checked(name, plain, plain.name, read_columns(plain, "label").items())
    return _READERS[name](folder, fold, split)


def recognition_clips(folder: Path, name: str) -> dict[str, Path]:
    """Find the ``.mp4`` files anywhere in a set's folder by clip name, as :func:`read_recognition_set` spells it.

    Raises:
        DataError: Two files have one clip's name.
    """
    clips: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.mp4")):
        clip = _dfew_name(path.stem) if name == "dfew" else path.stem
        if clip in clips:
            raise DataError(f"{folder}: {clips[clip]} and {path} are both the clip {clip}; keep one in the folder")
        clips[clip] = path
    return clips


def _dfew_name(written: str) -> str:
    return written.strip().zfill(5)


def _dfew(folder: Path, fold: int, split: Split) -> RecognitionSet:
    place = f"EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv"
    path = folder / place
    check_format(path)
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8", keep_default_na=False).fillna("")
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: cannot be read as CSV ({error}); check the folder, or write {_PLAIN[split]}"
        ) from error
    if lacking := {"video_name", "label"} - set(table.columns):
        raise DataError(f"{path}: lacks the column {', '.join(sorted(lacking))}; it has {', '.join(table.columns)}")
    rows = ((_dfew_name(clip), label.strip()) for clip, label in zip(table["video_name"], table["label"], strict=True))
    return _checked("dfew", path, place, ((clip, _numbered(path, clip, label, _DFEW_CLASSES)) for clip, label in rows))


def _mafw(folder: Path, fold: int, split: Split) -> RecognitionSet:
    place = f"Train & Test Set/single/no_caption/set_{fold}/{split}.txt"
    path = folder / place
    try:
        lines = read_text(path, _MOST_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the folder, or write {_PLAIN[split]}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        match line.split():
            case []:
                continue
            case [file, label]:
                pairs.append((Path(file).stem, label))
            case _:
                raise DataError(f"{path}, line {number}: {line[:80]!r} in place of a file name and a class")
    return _checked("mafw", path, place, pairs)


def _ravdess(folder: Path, fold: int, split: Split) -> RecognitionSet:
    if split == "train":
        raise DataError(f"{folder}: ravdess is a test set, without training clips; or write {_PLAIN[split]}")
    clips = {path.stem: path for path in sorted(folder.rglob("*.mp4"))}
    speech = [(match[1], path) for name, path in clips.items() if (match := _RAVDESS_NAME.fullmatch(name))]
    if not speech:
        raise DataError(f"{folder}: has no audio-visual speech 01-01-*.mp4; check the folder, or write {_PLAIN[split]}")
    pairs = ((path.stem, _numbered(path, path.stem, code, _RAVDESS_CLASSES)) for code, path in speech)
    return _checked("ravdess", folder, "names of 01-01-*.mp4", pairs)


_READERS: Mapping[str, Callable[[Path, int, Split], RecognitionSet]] = {
    "dfew": _dfew,
    "mafw": _mafw,
    "ravdess": _ravdess,
}


def _numbered(path: Path, clip: str, number: str, classes: tuple[str, ...]) -> str:
    if number.isascii() and number.isdecimal() and 1 <= int(number) <= len(classes):
        return classes[int(number) - 1]
    raise DataError(f"{path}: {clip} has the class {number!r} in place of 1 to {len(classes)}")


def _checked(name: str, path: Path, source: str, pairs: Iterable[tuple[str, str]]) -> RecognitionSet:
    label_of: dict[str, str] = {}
    for clip, label in pairs:
        if not is_safe_name(clip):
            raise DataError(f"{path}: {clip!r} is not a clip name")
        if clip in label_of:
            raise DataError(f"{path}: the name {clip!r} occurs twice; keep one")
        label_of[clip] = normalise_class(label)
        if label_of[clip] not in CLASSES[name]:
            raise DataError(f"{path}: {clip} has the class {label!r}; the set knows {', '.join(CLASSES[name])}")
    if not label_of:
        raise DataError(f"{path}: has no clips")
    return RecognitionSet(name, tuple(label_of), tuple(label_of.values()), source)
