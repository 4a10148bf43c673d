"""Train on single-label sets: link their own folders into one in the published layout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.data.layouts.manifest import listing
from affectgpt_r1.data.layouts.mer import video_file
from affectgpt_r1.data.layouts.recognition_sets import FOLDERS, Split, read_recognition_set, recognition_clips
from affectgpt_r1.data.splits import Splits
from affectgpt_r1.errors import DataError, OnFault
from affectgpt_r1.io.files import replacing, write_text

# Classes whose adjective R1-Omni answers with; it answers the others by their names.
ANSWERS: Mapping[str, str] = {
    "contempt": "contemptuous",
    "anxiety": "anxious",
    "helplessness": "helpless",
    "disappointment": "disappointed",
}


class RecognitionDataModule(ClipDataModule):
    """Training and test folds of DFEW and MAFW, read from their native folders.

    Reading links the clips into ``prepared/<sets>-fold<K>``, which is then a data folder like any other.

    Args:
        root: Folder that holds ``DFEW`` and ``MAFW``; nothing is written there.
        prepared: Folder for links and label files.
        sets: Keys of :data:`~affectgpt_r1.data.layouts.recognition_sets.FOLDERS`.
        fold: Which of the five folds, from 1.
        options: Of :class:`~affectgpt_r1.data.datamodule.ClipDataModule`.
    """

    def __init__(
        self, root: str, prepared: str, sets: Sequence[str] = ("dfew", "mafw"), fold: int = 1, **options: Any
    ) -> None:
        self.native, self.sets, self.fold = Path(root), tuple(sets), fold
        super().__init__(str(Path(prepared) / f"{'-'.join(sets)}-fold{fold}"), **options)
        self.manifests = None  # of links that this writes at each start

    def read(self, on_fault: OnFault) -> Splits:
        """Link the clips, then read them as any data folder."""
        try:
            link_recognition_sets(self.native, self.root, self.sets, self.fold)
        except DataError as fault:
            on_fault(fault)
            return Splits([], [], [])
        return super().read(on_fault)

    def digest(self) -> str:
        """Return the SHA-256 of the label files, after writing them if they do not exist."""
        if not self.splits.train:
            link_recognition_sets(self.native, self.root, self.sets, self.fold)
        return super().digest()


def link_recognition_sets(root: Path, output: Path, sets: Sequence[str], fold: int = 1) -> None:
    """Write ``train.csv``, ``test.csv`` and links ``video/<set>_<clip>.mp4`` to the clips.

    Several processes may do so at once: each file is written atomically, and all write the same.

    Args:
        root: Folder of the sets' folders.
        output: Data folder to fill.
        sets: Keys of :data:`~affectgpt_r1.data.layouts.recognition_sets.FOLDERS`.
        fold: Which of the five folds, from 1.

    Raises:
        DataError: A set is unknown or a test set, its labels cannot be used, or a labelled clip has no ``.mp4``.
    """
    if not sets or not set(sets) <= set(FOLDERS):
        raise DataError(f"data.sets={list(sets)} is unknown; choose among dfew and mafw")
    rows: dict[Split, list[tuple[str, str]]] = {"train": [], "test": []}
    for name in sets:
        folder = root / FOLDERS[name]
        clips = recognition_clips(folder, name)
        for split, labelled in rows.items():
            data = read_recognition_set(folder, name, fold, split)
            if lacking := [clip for clip in data.names if clip not in clips]:
                raise DataError(
                    f"{folder}: has no .mp4 of {len(lacking)} of {len(data)} clips in {data.source}: "
                    f"{listing(lacking)}; unpack all parts there, or take the rows out"
                )
            for clip, label in zip(data.names, data.labels, strict=True):
                labelled.append((f"{name}_{clip}", ANSWERS.get(label, label)))
                _link(video_file(output, f"{name}_{clip}"), clips[clip])
    for split, labelled in rows.items():
        table = pd.DataFrame(labelled, columns=["name", "openset"])
        write_text(output / f"{split}.csv", table.to_csv(index=False), flush=False)


def set_of_clip(name: str) -> str:
    """Return the set of a clip that was linked here, ``""`` of any other clip.

    >>> set_of_clip("dfew_00012"), set_of_clip("sample_00012")
    ('dfew', '')
    """
    prefix = name.partition("_")[0]
    return prefix if prefix in FOLDERS else ""


def _link(link: Path, clip: Path) -> None:
    target = str(clip.resolve())
    if not link.is_symlink() or os.readlink(link) != target:
        with replacing(link, flush=False) as partial:
            os.symlink(target, partial)
