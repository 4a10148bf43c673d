"""Folders as people keep them: nested, with tables of any program, and names of any language."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import openpyxl

WriteMP4 = Callable[..., Path]


def nested(root: Path, write_mp4: WriteMP4) -> None:
    """Two days with the same file names, a table that names places, speakers, and words in a third column."""
    rows = ["video,emotion,speaker,transcript"]
    for day in ("day 1", "day 2"):
        for number, speaker in enumerate(("anna", "ben", "cleo", "dora")):
            write_mp4(root / day / f"{number:03}.mp4", 12, hertz=200 + 10 * number, first_gray=number)
            rows.append(f'{day}/{number:03}.mp4,"happy, proud",{speaker},"Well, number {number}."')
    (root / "labels.csv").write_text("\n".join(rows))


def excel_csv(root: Path, write_mp4: WriteMP4) -> None:
    """A German Excel's CSV, names with umlauts (decomposed on the disk), blanks and Chinese, and ``.MP4`` in cells."""
    names = ("Müller 1", "Grüße", "生气", "take 4")
    rows = ["Datei;Gefühl"]
    for number, (name, labels) in enumerate(zip(names, ("happy, proud", "sad", "angry", "calm"), strict=True)):
        write_mp4(root / f"{unicodedata.normalize('NFD', name)}.MP4", 12, first_gray=number)
        rows.append(f"{name}.MP4;{labels}")
    (root / "Gefühle.csv").write_text("\n".join(rows), encoding="utf-8-sig")


def workbook(root: Path, write_mp4: WriteMP4) -> None:
    """An Excel workbook whose numbers lost their zeros, with reasons and a column of splits."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["ID", "Labels", "Reason", "Set"])
    for number, split in enumerate(("train", "train", "train", "dev", "test"), start=1):
        write_mp4(root / "clips" / f"{number:03}.mp4", 12, first_gray=number)
        sheet.append([number, "happy; proud", f"A smile, the {number}th.", split])
    book.save(root / "annotation.xlsx")


def phone(root: Path, write_mp4: WriteMP4, turn: Callable[[Path], object]) -> None:
    """Phone clips that a player turns, with subtitles next to them and JSON of labels."""
    for number, name in enumerate(("IMG_0001", "IMG_0002", "IMG_0003")):
        turn(write_mp4(root / f"{name}.MOV", 12, first_gray=number))
        (root / f"{name}.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nI am fine.\n")
    (root / "labels.json").write_text('{"IMG_0001": ["happy"], "IMG_0002": ["sad", "tired"], "IMG_0003": ["calm"]}')


def silent(root: Path, write_mp4: WriteMP4, number_of_clips: int = 4) -> None:
    """Two clips have no sound. The folder is the label."""
    for number in range(number_of_clips):
        write_mp4(
            root / ("happy" if number % 2 else "sad") / f"{number}.mp4",
            12,
            sound=number not in (0, 3),
            first_gray=number,
        )


def split_files(root: Path, write_mp4: WriteMP4, write_wav: Callable[..., Path]) -> None:
    """Videos without sound next to wavs in a folder of their own; a file of labels per split; one clip unlabelled."""
    for number in range(6):
        write_mp4(root / "videos" / f"clip{number}.avi", 12, sound=False, first_gray=number)
        write_wav(root / "wavs" / f"clip{number}.wav", rate=44_100, channels=2)
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4,))):
        rows = "\n".join(f"clip{number},angry" for number in numbers)
        (root / f"{split}.tsv").write_text(f"name\tlabel\n{rows}\n".replace(",", "\t"))
