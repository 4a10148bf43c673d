"""DFEW, MAFW and RAVDESS in their published layouts, in miniature, and what must be refused."""

import re

import pytest

from affectgpt_r1.data.layouts.recognition_sets import read_recognition_set, recognition_clips
from affectgpt_r1.errors import DataError

DFEW = "EmoLabel_DataSplit/test(single-labeled)/set_{}.csv"
MAFW = "Train & Test Set/single/no_caption/set_{}/test.txt"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_dfew_numbers_its_classes(tmp_path):
    rows = "".join(f"{100 * number},{number}\n" for number in range(1, 8))
    write(tmp_path / DFEW.format(2), f"video_name,label\n{rows}")
    clips = read_recognition_set(tmp_path, "dfew", fold=2)
    assert clips.names == ("00100", "00200", "00300", "00400", "00500", "00600", "00700")
    assert clips.labels == ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    assert clips.source == DFEW.format(2)


def test_mafw_spells_them(tmp_path):
    known = "happy sad neutral angry surprise disgust fear contempt anxiety helplessness disappointment"
    spelt = known.replace("happy", "happiness").replace("sad", "sadness").replace("angry", "anger").split()
    write(tmp_path / MAFW.format(1), "".join(f"{row:05}.mp4 {name}\n" for row, name in enumerate(spelt)) + "\n")
    clips = read_recognition_set(tmp_path, "mafw")
    assert clips.names[:2] == ("00000", "00001")
    assert clips.labels == tuple(known.split())


def test_ravdess_codes_them_in_names(tmp_path):
    for code in range(1, 9):
        write(tmp_path / f"Actor_12/01-01-{code:02}-01-02-01-12.mp4", "")
    for other in ("02-01-06-01-02-01-12.mp4", "01-02-06-01-02-01-12.mp4", "03-01-06-01-02-01-12.wav", "notes.mp4"):
        write(tmp_path / "Actor_12" / other, "")
    clips = read_recognition_set(tmp_path, "ravdess")
    assert clips.names[5] == "01-01-06-01-02-01-12"
    assert clips.labels == ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")


@pytest.mark.parametrize("name", ["dfew", "mafw", "ravdess"])
def test_plain_labels_come_first(tmp_path, name):
    write(tmp_path / "labels.csv", "name,label\na,Fearful\nb,happiness\n")
    clips = read_recognition_set(tmp_path, name)
    assert (clips.names, clips.labels, clips.source) == (("a", "b"), ("fear", "happy"), "labels.csv")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("dfew", DFEW.format(1), "video_name,emotion\n1,2\n", "set_1.csv: lacks the column label; it has video"),
        ("dfew", DFEW.format(1), "video_name,label\n1,8\n", "set_1.csv: 00001 has the class '8' in place of 1 to 7"),
        ("dfew", DFEW.format(1), "video_name,label\n1,\n", "set_1.csv: 00001 has the class '' in place of 1 to 7"),
        ("dfew", DFEW.format(1), "video_name,label\n1\n", "set_1.csv: 00001 has the class '' in place of 1 to 7"),
        ("dfew", DFEW.format(1), "video_name,label\n1,2\n00001,2\n", "set_1.csv: the name '00001' occurs twice"),
        ("dfew", DFEW.format(1), "video_name,label\n", "set_1.csv: has no clips"),
        ("dfew", DFEW.format(1), "", "set_1.csv: cannot be read as CSV"),
        ("dfew", DFEW.format(1), b"video_name,label\n\xff,1\n", "set_1.csv: cannot be read as CSV"),
        ("dfew", DFEW.format(2), "video_name,label\n1,2\n", "set_1.csv: cannot be read as CSV"),
        ("mafw", MAFW.format(1), "a.mp4\n", "test.txt, line 1: 'a.mp4' in place of a file name and a class"),
        ("mafw", MAFW.format(1), "a.mp4 love\n", "test.txt: a has the class 'love'; the set knows happy, sad"),
        ("mafw", MAFW.format(1), "a.mp4 fear\na.avi fear\n", "test.txt: the name 'a' occurs twice"),
        ("mafw", MAFW.format(1), "", "test.txt: has no clips"),
        ("mafw", MAFW.format(1), b"\xff fear\n", "test.txt: cannot be read"),
        ("mafw", "other.txt", "", "test.txt: cannot be read"),
        ("ravdess", "01-01-09-01-02-01-12.mp4", "", "01-01-09-01-02-01-12 has the class '09' in place of 1 to 8"),
        ("ravdess", "01-02-01-01-02-01-12.mp4", "", "has no audio-visual speech"),
        ("ravdess", "labels.csv", "name,label\na,love\n", "labels.csv: a has the class 'love'"),
        ("ravdess", "labels.csv", "name,label\na,fear\na,sad\n", "labels.csv: the name 'a' is in rows 2 and 3"),
    ],
)  # fmt: skip
def test_one_clear_error(tmp_path, name, file, content, message):
    write(tmp_path / file, content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_recognition_set(tmp_path, name)


def test_unknown_sets_and_folds(tmp_path):
    with pytest.raises(DataError, match="no recognition set 'ferv39k': take one of dfew, mafw, ravdess"):
        read_recognition_set(tmp_path, "ferv39k")
    with pytest.raises(DataError, match="no fold 6: take 1 to 5"):
        read_recognition_set(tmp_path, "dfew", fold=6)


def test_the_training_fold_stands_beside_the_test_fold(tmp_path):
    write(tmp_path / DFEW.format(3).replace("test", "train"), "video_name,label\n7,6\n")
    write(tmp_path / MAFW.format(3).replace("test.", "train."), "00007.mp4 helplessness\n")
    dfew = read_recognition_set(tmp_path, "dfew", 3, "train")
    assert (dfew.names, dfew.labels) == (("00007",), ("disgust",))
    mafw = read_recognition_set(tmp_path, "mafw", 3, "train")
    assert (mafw.names, mafw.labels) == (("00007",), ("helplessness",))
    write(tmp_path / "train_labels.csv", "name,label\n00009,fear\n")
    write(tmp_path / "labels.csv", "name,label\n00010,sad\n")
    assert read_recognition_set(tmp_path, "dfew", 3, "train").names == ("00009",)
    assert read_recognition_set(tmp_path, "dfew", 3).names == ("00010",)


def test_ravdess_has_no_training_clips(tmp_path):
    write(tmp_path / "Actor_12/01-01-01-01-02-01-12.mp4", "")
    with pytest.raises(DataError, match="ravdess is a test set"):
        read_recognition_set(tmp_path, "ravdess", split="train")


def test_clips_are_found_in_all_parts_by_padded_and_unpadded_names(tmp_path):
    write(tmp_path / "Clip/original/part_1/7.mp4", "")
    write(tmp_path / "Clip/original/part_2/01601.mp4", "")
    write(tmp_path / "Clip/clip_224x224/00007/00007_0.jpg", "")
    clips = recognition_clips(tmp_path, "dfew")
    assert {name: path.parent.name for name, path in clips.items()} == {"00007": "part_1", "01601": "part_2"}
    assert set(recognition_clips(tmp_path, "mafw")) == {"7", "01601"}
    write(tmp_path / "copy/00007.mp4", "")
    with pytest.raises(DataError, match=r"part_1/7\.mp4 and \S*copy/00007\.mp4 are both the clip 00007"):
        recognition_clips(tmp_path, "dfew")
