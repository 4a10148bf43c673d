"""Read the nine data sets of MER-UniBench from their published folders (Lian et al., "AffectGPT", ICML 2025).

The test clips are: ``test1_corpus`` of MER2023 (MULTI) and MER2024 (SEMI), session 5 of IEMOCAP's four-way labels (the
fifth character of the name), ``test_corpus`` of MELD, CMU-MOSI, CMU-MOSEI, CH-SIMS and CH-SIMS v2, and every row of
OV-MERD+.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, Literal

from affectgpt_r1.data.layouts.manifest import clip_subtitles, read_columns
from affectgpt_r1.data.layouts.mer import is_safe_name
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.object_archive import read_object_dict
from affectgpt_r1.types import EmotionSet

Group = Literal["fine", "basic", "sentiment"]
_MER_CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
_POLISHED = ("transcription-engchi-polish.csv", "english")


@dataclass(frozen=True)
class UniBenchLayout:
    """Where one set keeps what is scored."""

    group: Group  # open vocabulary (fine), one class (basic) or one number (sentiment) per clip
    folder: str
    label_file: str
    corpus: str  # array of the label file with the test clips; "" for a CSV file
    transcript: tuple[str, str]  # transcription file and its column
    num_clips: int  # test clips in the papers
    classes: tuple[str, ...] = ()  # a label that is a number is an index into them
    session: str = ""  # fifth character of a test clip's name; "" where the full corpus is the test set


def _sentiment(folder: str, num_clips: int) -> UniBenchLayout:
    return UniBenchLayout("sentiment", folder, "label.npz", "test_corpus", _POLISHED, num_clips)


LAYOUTS: Mapping[str, UniBenchLayout] = {
    "mer2023": UniBenchLayout(
        "basic", "mer2023-dataset-process", "label-6way.npz", "test1_corpus", _POLISHED, 411, _MER_CLASSES
    ),
    "mer2024": UniBenchLayout(
        "basic",
        "mer2024-dataset-process",
        "label-6way.npz",
        "test1_corpus",
        ("transcription_merge.csv", "chinese"),
        1169,
        _MER_CLASSES,
    ),
    "meld": UniBenchLayout(
        "basic",
        "meld-process",
        "label.npz",
        "test_corpus",
        _POLISHED,
        2610,
        ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise"),
    ),
    "iemocap": UniBenchLayout(
        "basic",
        "iemocap-process",
        "label_4way.npz",
        "whole_corpus",
        _POLISHED,
        1241,
        ("happy", "sad", "neutral", "anger"),
        session="5",
    ),
    "cmumosi": _sentiment("cmumosi-process", 686),
    "cmumosei": _sentiment("cmumosei-process", 4659),
    "sims": _sentiment("sims-process", 457),
    "simsv2": _sentiment("simsv2-process", 1034),
    "ovmerdplus": UniBenchLayout(
        "fine", "ovmerdplus-process", "ovlabel.csv", "", ("subtitle_eng.csv", "sentence"), 532
    ),
}


@dataclass(frozen=True)
class UniBenchSet:
    """The ``N`` test clips of one set."""

    name: str  # key of LAYOUTS
    group: Group
    names: tuple[str, ...]
    labels: tuple[EmotionSet, ...] = ()  # of one word each in a basic set, none in a sentiment set
    values: tuple[float, ...] = ()  # of a sentiment set
    transcription: Mapping[str, str] | None = None  # by clip name; None if it was not read
    classes: tuple[str, ...] = ()  # of a basic set

    def __len__(self) -> int:
        return len(self.names)


def read_unibench(root: Path, *, transcription: bool = True) -> dict[str, UniBenchSet]:
    """Read all nine sets from ``root``, each in its published folder; see :func:`read_unibench_set`."""
    return {name: read_unibench_set(root / LAYOUTS[name].folder, name, transcription=transcription) for name in LAYOUTS}


def read_unibench_set(folder: Path, name: str, *, transcription: bool = True) -> UniBenchSet:
    """Read the test clips of one set.

    Args:
        folder: The set's own folder.
        name: Which set, a key of :data:`LAYOUTS`.
        transcription: Read the transcription, too, which must then cover every clip. Scoring needs labels only.

    Raises:
        DataError: There is no such set; or a file is missing, lacks an array, column or clip, names a clip twice, or
            holds a label that is not a class or number of the set. Names the file.
    """
    if name not in LAYOUTS:
        raise DataError(f"there is no MER-UniBench set {name!r}: take one of {', '.join(LAYOUTS)}")
    clips = _labelled(folder, name, LAYOUTS[name])
    if not transcription:
        return clips
    file, column = LAYOUTS[name].transcript
    return replace(clips, transcription=clip_subtitles(folder / file, column, clips.names))


def _labelled(folder: Path, name: str, layout: UniBenchLayout) -> UniBenchSet:
    path = folder / layout.label_file
    if layout.group == "fine":
        opensets = read_columns(path, "openset")
        return UniBenchSet(name, "fine", tuple(opensets), labels=tuple(map(parse_labels, opensets.values())))
    clips = _test_clips(path, layout)
    if layout.group == "basic":
        labels = tuple((_class(path, clip, entry, layout.classes),) for clip, entry in clips.items())
        return UniBenchSet(name, "basic", tuple(clips), labels=labels, classes=layout.classes)
    values = tuple(_value(path, clip, entry) for clip, entry in clips.items())
    return UniBenchSet(name, "sentiment", tuple(clips), values=values)


def _test_clips(path: Path, layout: UniBenchLayout) -> dict[str, Mapping[str, Any]]:
    corpus = read_object_dict(path, layout.corpus)
    clips = {}
    for name, entry in corpus.items():
        if not is_safe_name(name):
            raise DataError(f"{path}: {layout.corpus}: {name!r} is not a clip name")
        if not isinstance(entry, Mapping):
            raise DataError(
                f"{path}: {layout.corpus}: {name} has {short_repr(entry)} in place of {{'emo': ..., 'val': ...}}"
            )
        if not layout.session or name[4:5] == layout.session:
            clips[name] = entry
    if not clips:
        whose = f" of session {layout.session}" if layout.session else ""
        raise DataError(f"{path}: {layout.corpus} has no clips{whose}")
    return clips


def _class(path: Path, clip: str, entry: Mapping[str, Any], classes: tuple[str, ...]) -> str:
    label = _field(path, clip, entry, "emo")
    if isinstance(label, str) and label.strip().lower() in classes:
        return label.strip().lower()
    if isinstance(label, int | float) and label in range(len(classes)):
        return classes[int(label)]
    raise DataError(
        f"{path}: {clip} has the class {short_repr(label)}; the set knows {', '.join(classes)}, or their places"
    )


def _value(path: Path, clip: str, entry: Mapping[str, Any]) -> float:
    value = _field(path, clip, entry, "val")
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{path}: {clip} has the sentiment {short_repr(value)}, not a number")
    return float(value)


def _field(path: Path, clip: str, entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        raise DataError(f"{path}: {clip} lacks {key!r}; it has {', '.join(map(str, entry)) or 'nothing'}")
    return entry[key]
