"""Folders as people keep them, prepared whole: what is found, written, left out, and left alone by a second run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from affectgpt_r1.data.prepare.extract import Extraction
from affectgpt_r1.data.prepare.filter_labels import Filters
from affectgpt_r1.data.prepare.prepare_folder import Wishes, describe, outcome, plan, prepare
from affectgpt_r1.errors import ConfigError, DataError
from helpers import own_folders
from helpers.films import with_display_matrix

NO_FACES = Extraction(faces="none")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_mp4, write_wav):
    root = tmp_path_factory.mktemp("own")
    own_folders.nested(root / "nested", write_mp4)
    own_folders.excel_csv(root / "excel", write_mp4)
    own_folders.workbook(root / "workbook", write_mp4)
    own_folders.phone(root / "phone", write_mp4, lambda path: with_display_matrix(path, (0, 1), (-1, 0)))
    own_folders.silent(root / "silent", write_mp4)
    own_folders.split_files(root / "splits", write_mp4, write_wav)
    return root


def _prepared(data: Path, output: Path, **wishes):
    wishes.setdefault("extraction", NO_FACES)
    found = plan(Wishes(data, output, **wishes))
    return found, prepare(found, workers=1)


def _table(path: Path) -> dict[str, str]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return dict(zip(table["name"], table.iloc[:, 1], strict=True))


def _state(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


def test_nested_folders_with_the_same_names_and_speakers(folders, tmp_path):
    _, done = _prepared(folders / "nested", tmp_path)
    speaker = {f"day {day}__{number:03}": number for day in (1, 2) for number in range(4)}
    assert {split: len(names) for split, names in done.splits.items()} == {"train": 4, "validation": 2, "test": 2}
    for names in done.splits.values():  # both clips of a speaker
        assert sorted(speaker[name] for name in names) == sorted([*{speaker[name] for name in names}] * 2)
    assert _table(tmp_path / "subtitles.csv")["day 2__003"] == "Well, number 3."
    assert _table(tmp_path / "labels_test.csv").popitem()[1] == "happy,proud"
    assert (done.modalities, done.visual) == (("video", "audio", "text"), "frame")
    assert (tmp_path / "video" / "day 1__000.mp4").resolve() == (folders / "nested" / "day 1" / "000.mp4").resolve()
    wave, rate = soundfile.read(tmp_path / "audio" / "day 1__000.wav")
    assert (rate, wave.ndim) == (16_000, 1)
    assert len(wave) == pytest.approx(1.5 * 16_000, rel=0.1)


def test_an_excel_csv_with_decomposed_names(folders, tmp_path):
    columns = {"name": "Datei", "openset": "Gefühl"}
    found, done = _prepared(folders / "excel", tmp_path, columns=columns, val_fraction=0.0, test_fraction=0.0)
    assert _table(tmp_path / "labels_train.csv") == {
        "Grüße": "sad", "Müller 1": "happy,proud", "take 4": "calm", "生气": "angry"
    }  # fmt: skip
    assert len(list((tmp_path / "video").iterdir())) == 4
    assert describe(found)[0] == "4 clips (4 .mp4)"
    assert outcome(done) == ["4 train", "modalities video, audio; data.visual=frame"]


def test_columns_that_are_not_known_are_named_with_the_remedy(folders):
    found = plan(Wishes(folders / "excel"))
    assert describe(found)[1] == (
        f"not a table of labels: {folders}/excel/Gefühle.csv: no columns of names and labels in 'Datei', 'Gefühl'; "
        "name them by --columns name=FILE"
    )


def test_a_workbook_whose_numbers_lost_their_zeros(folders, tmp_path):
    _, done = _prepared(folders / "workbook", tmp_path)
    assert done.splits == {"train": ["001", "002", "003"], "validation": ["004"], "test": ["005"]}
    assert _table(tmp_path / "reasons.csv")["002"] == "A smile, the 2th."
    assert done.modalities == ("video", "audio")


def test_turned_phone_clips_are_cropped_upright(folders, tmp_path):
    _, done = _prepared(folders / "phone", tmp_path, extraction=Extraction(faces="centre", frames=8))
    assert _table(tmp_path / "subtitles.csv") == dict.fromkeys(("IMG_0001", "IMG_0002", "IMG_0003"), "I am fine.")
    assert done.visual == "face"
    crops = np.load(tmp_path / "openface_face" / "IMG_0001" / "IMG_0001.npy")
    assert (crops.shape, crops.dtype) == ((8, 112, 112, 3), np.uint8)
    red = crops[0, :, :, 2].astype(int) - crops[0, :, :, 0]  # BGR; the stored left half is red
    halves = red[:56].mean(), red[56:].mean()
    assert max(halves) > 150 > 10 > abs(min(halves))  # which lies at the top or the bottom of the turned picture


def test_clips_without_sound_are_left_out_and_listed_or_sound_is_off(folders, tmp_path):
    _, done = _prepared(folders / "silent", tmp_path / "all", label_by_folder=True)
    assert done.left_out == {"0": "no sound", "3": "no sound"}
    assert pd.read_csv(tmp_path / "all" / "report.csv")["left_out"].tolist()[1] == "no sound"
    assert "2 clips are left out, see report.csv: 2 with no sound" in outcome(done)
    _, done = _prepared(folders / "silent", tmp_path / "video", label_by_folder=True, modalities=("video",))
    assert (done.left_out, done.modalities) == ({}, ("video",))
    assert sorted(_table(tmp_path / "video" / "labels_train.csv").values()) == ["happy", "sad"]


def test_a_file_of_labels_per_split_and_sound_in_a_folder_of_its_own(folders, tmp_path):
    _, done = _prepared(folders / "splits", tmp_path)
    assert done.splits == {"train": ["clip0", "clip1", "clip2"], "validation": ["clip3"], "test": ["clip4"]}
    assert _table_names(tmp_path / "unlabelled.csv") == ["clip5"]
    wave, rate = soundfile.read(tmp_path / "audio" / "clip5.wav")
    assert (rate, len(wave)) == (16_000, 40_000)


def _table_names(path: Path) -> list[str]:
    return pd.read_csv(path)["name"].tolist()


def test_a_second_run_changes_nothing_and_a_replaced_file_is_noticed(folders, tmp_path, write_mp4):
    data, output = tmp_path / "data", tmp_path / "data" / "prepared"
    own_folders.workbook(data, write_mp4)
    _prepared(data, output)
    before = _state(output)
    found, done = _prepared(data, output)
    assert (found.to_do, done.written, _state(output)) == ([], [], before)
    kept = (data / "clips" / "002.mp4").stat()
    write_mp4(data / "clips" / "new.mp4", 12, hertz=500)
    (data / "clips" / "new.mp4").replace(data / "clips" / "002.mp4")
    os.utime(data / "clips" / "002.mp4", ns=(kept.st_atime_ns, kept.st_mtime_ns))  # as `cp -p` leaves it
    found, done = _prepared(data, output)
    assert [clip.name for clip in found.to_do] == ["002"]
    changed = {path for path, time in _state(output).items() if before[path] != time}
    assert changed == {f"{output}/video/002.mp4", f"{output}/audio/002.wav", f"{output}/prepared.jsonl"}
    (output / "audio" / "003.wav").unlink()
    assert [clip.name for clip in plan(Wishes(data, output, extraction=NO_FACES)).to_do] == ["003"]


def test_a_killed_run_continues(folders, tmp_path):
    found = plan(Wishes(folders / "workbook", tmp_path, extraction=NO_FACES))

    def stop(state):
        if state.name == "002":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(found, 1, stop)
    with (tmp_path / "prepared.jsonl").open("a") as file:
        file.write('{"name": "003", "sou')
    found, done = _prepared(folders / "workbook", tmp_path)
    assert [clip.name for clip in found.to_do] == ["003", "004", "005"]
    assert len(done.splits["train"]) == 3


def test_clips_that_come_later_move_no_other(tmp_path, write_mp4):
    data, output = tmp_path / "data", tmp_path / "out"
    own_folders.nested(data, write_mp4)
    (data / "labels.csv").write_text("video,emotion\n" + "".join(f"day 1/00{n},sad\n" for n in range(4)))
    _, first = _prepared(data, output)
    (data / "more.csv").write_text("video,emotion\n" + "".join(f"day 2/00{n},sad\n" for n in range(4)))
    _, second = _prepared(data, output)
    for split, names in first.splits.items():
        assert set(names) <= set(second.splits[split])
    assert sum(map(len, second.splits.values())) == 8


def test_copies_of_a_clip_are_in_one_split(tmp_path, write_mp4):
    data = tmp_path / "data"
    for number in range(4):
        first = write_mp4(data / f"{number}.mp4", 4, first_gray=number)
        (data / f"{number} copy.mp4").write_bytes(first.read_bytes())
    names = [path.stem for path in data.iterdir()]
    (data / "labels.csv").write_text("name,label\n" + "".join(f"{name},sad\n" for name in names))
    _, done = _prepared(data, tmp_path / "out")
    assert {split: len(names) for split, names in done.splits.items()} == {"train": 4, "validation": 2, "test": 2}
    assert len({done.splits["test"][0][0], done.splits["test"][1][0]}) == 1
    assert done.notes[0].startswith("4 clips have the bytes of another: 0 copy is 0")


def test_a_file_that_cannot_be_read_is_left_out_with_its_reason(tmp_path, write_mp4):
    write_mp4(tmp_path / "data" / "good.mp4")
    (tmp_path / "data" / "bad.mp4").write_bytes(b"not a video")
    (tmp_path / "data" / "labels.csv").write_text("name,label\ngood,sad\nbad,sad\nlost,sad\n")
    found, done = _prepared(tmp_path / "data", tmp_path / "out")
    assert done.left_out["bad"].startswith(f"{tmp_path}/data/bad.mp4: cannot be read as video or sound")
    assert _table(tmp_path / "out" / "labels_train.csv") == {"good": "sad"}
    assert f"1 row has no clip: {tmp_path}/data/labels.csv, row 4: 'lost'" in describe(found)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,label\na,1\nb,2\n", "all labels are numbers, as classes are"),
        ("name,label\na,sad\na.mp4,happy\n", "row 3: 'a.mp4' has openset 'happy', and 'sad' in {}, row 2; keep one"),
        ("name,label,emotion\na,sad,sad\n", "'label', 'emotion' may each be 'openset'; name one"),
        ("name,label,split\na,sad,other\n", "row 2: the split 'other' is none of train, validation, test"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, write_mp4, table, message):
    write_mp4(tmp_path / "a.mp4", 2)
    write_mp4(tmp_path / "b.mp4", 2)
    path = tmp_path / "labels.csv"
    path.write_text(table)
    with pytest.raises(DataError) as refused:
        plan(Wishes(tmp_path, tables=(path,)))
    assert message.format(path) in str(refused.value)


def test_outputs_that_would_mix_with_something_else(tmp_path, write_mp4):
    write_mp4(tmp_path / "data" / "a.mp4", 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not empty and was not made by `prepare`"):
        plan(Wishes(tmp_path / "data", tmp_path / "full"))
    with pytest.raises(ConfigError, match="holds the videos themselves"):
        plan(Wishes(tmp_path / "data", tmp_path))


def test_machine_labels_are_kept_where_labellers_agree(tmp_path, write_mp4):
    answers = {
        "a": [("clip0", ["happy"]), ("clip1", ["happy"]), ("clip2", ["sad"]), ("clip3", ["calm"])],
        "b": [("clip0", ["joyful"]), ("clip1", ["furious"]), ("clip2", ["sad", "happy"])],
    }
    for number in range(4):
        write_mp4(tmp_path / "data" / f"clip{number}.mp4", 2, first_gray=number)
    for labeller, rows in answers.items():
        lines = [json.dumps({"file": f"data/{name}.mp4", "name": name, "openset": words}) for name, words in rows]
        (tmp_path / f"{labeller}.jsonl").write_text("\n".join(lines))
    tables = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    _, done = _prepared(tmp_path / "data", tmp_path / "out", tables=tables, filters=Filters(agreement=0.5))
    assert done.left_out == {
        "clip1": "labellers agree by F1 0.00",
        "clip2": "most labellers do not find it negative",
        "clip3": "no other labeller",
    }
    assert _table(tmp_path / "out" / "labels_train.csv") == {"clip0": "happy"}
    with pytest.raises(ConfigError, match="--agree compares labellers"):
        plan(Wishes(tmp_path / "data", tables=tables[:1], filters=Filters(agreement=0.5)))


def test_clips_without_enough_faces_are_filtered_and_evaluation_clips_are_not(folders, tmp_path):
    found = plan(Wishes(folders / "workbook", tmp_path, extraction=NO_FACES, filters=Filters(faces=0.5, trim=0.34)))
    done = prepare(found, workers=1)
    assert (done.splits["validation"], done.splits["test"]) == (["004"], ["005"])
    assert done.left_out == dict.fromkeys(("001", "002", "003"), "a face in 0 of 12 frames")
