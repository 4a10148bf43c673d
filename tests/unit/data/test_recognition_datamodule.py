"""DFEW and MAFW in their native folders become one data folder of links."""

import os
import re
import shutil

import pandas as pd
import pytest

from affectgpt_r1.data.recognition_datamodule import RecognitionDataModule, link_recognition_sets
from affectgpt_r1.errors import DataError

DFEW = {"train": {"1": 1, "2": 4, "3": 7, "1601": 2}, "test": {"4": 3, "5": 1}}
MAFW = {"train": {"00001": "anger", "00002": "anxiety"}, "test": {"00003": "contempt"}}


@pytest.fixture
def native(tmp_path, write_mp4):
    """Fold 2 of both sets with all their clips; a clip's number sets its picture and sound."""
    root = tmp_path / "sets"
    for split, clips in DFEW.items():
        file = root / f"DFEW/EmoLabel_DataSplit/{split}(single-labeled)/set_2.csv"
        file.parent.mkdir(parents=True)
        pd.DataFrame({"video_name": list(clips), "label": list(clips.values())}).to_csv(file, index=False)
        for clip in clips:
            write_mp4(root / f"DFEW/Clip/original/part_{(int(clip) - 1) // 1600}/{clip}.mp4", 9, first_gray=int(clip))
    for split, clips in MAFW.items():
        file = root / f"MAFW/Train & Test Set/single/no_caption/set_2/{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{clip}.mp4 {label}\n" for clip, label in clips.items()))
        for clip in clips:
            write_mp4(root / f"MAFW/data/clips/{clip}.mp4", 9, first_gray=100 + int(clip))
    return root


def table(path):
    return dict(pd.read_csv(path).itertuples(index=False, name=None))


def test_a_process_of_the_same_number_elsewhere_is_not_in_the_way(native, tmp_path):
    (tmp_path / "linked" / "video").mkdir(parents=True)
    (tmp_path / "linked" / "video" / f".dfew_00001.mp4-{os.getpid()}").symlink_to("its own link, half done")
    link_recognition_sets(native, tmp_path / "linked", ["dfew"], fold=2)
    assert (tmp_path / "linked" / "video" / "dfew_00001.mp4").is_file()


def test_labels_and_links(native, tmp_path):
    output = tmp_path / "linked"
    before = sorted(native.rglob("*"))
    link_recognition_sets(native, output, ["dfew", "mafw"], fold=2)
    assert table(output / "train.csv") == {
        "dfew_00001": "happy",
        "dfew_00002": "angry",
        "dfew_00003": "fear",
        "dfew_01601": "sad",
        "mafw_00001": "angry",
        "mafw_00002": "anxious",
    }
    assert table(output / "test.csv") == {
        "dfew_00004": "neutral",
        "dfew_00005": "happy",
        "mafw_00003": "contemptuous",
    }
    clips = {path.name: path.resolve().relative_to(native.resolve()) for path in (output / "video").iterdir()}
    assert len(clips) == 9
    assert str(clips["dfew_01601.mp4"]) == "DFEW/Clip/original/part_1/1601.mp4"
    assert str(clips["mafw_00001.mp4"]) == "MAFW/data/clips/00001.mp4"
    assert sorted(native.rglob("*")) == before


def test_a_second_time_only_what_moved_is_linked_anew(native, tmp_path):
    output = tmp_path / "linked"
    link_recognition_sets(native, output, ["mafw"], fold=2)
    still = os.lstat(output / "video/mafw_00001.mp4").st_mtime_ns
    shutil.move(native / "MAFW/data/clips/00002.mp4", native / "MAFW/data/00002.mp4")
    link_recognition_sets(native, output, ["mafw"], fold=2)
    assert os.lstat(output / "video/mafw_00001.mp4").st_mtime_ns == still
    assert (output / "video/mafw_00002.mp4").resolve() == (native / "MAFW/data/00002.mp4").resolve()
    assert sorted(path.name for path in output.iterdir()) == ["test.csv", "train.csv", "video"]


def test_a_data_module_reads_both_sets(native, tmp_path):
    options = {"train_labels": "train.csv", "test_labels": "test.csv", "subtitles": None, "visual": "frame"}
    small = {"num_frames": 2, "image_size": 8, "num_windows": 1, "val_fraction": 0.2, "batch_size": 5}
    module = RecognitionDataModule(
        str(native), str(tmp_path / "out"), fold=2, modalities=["video", "audio"], **options, **small
    )
    digest = module.digest()
    module.setup()
    assert module.digest() == digest
    assert module.root == tmp_path / "out" / "dfew-mafw-fold2"
    assert [len(rows) for rows in module.splits] == [5, 1, 3, 0]  # none supervised
    batch = next(iter(module.test_dataloader()))
    assert batch.names == ("dfew_00004", "dfew_00005", "mafw_00003")
    assert batch.labels == (("neutral",), ("happy",), ("contemptuous",))
    assert batch.frames.shape == (3, 2, 3, 8, 8)
    grays = batch.frames[:, 0, :, :, -1].float().mean((1, 2))
    assert (grays[1] > grays[0], grays[2] > grays[1] + 50) == (True, True)
    assert batch.waveforms.abs().amax((1, 2)).min() > 0.3


@pytest.mark.parametrize(
    ("sets", "fold", "damage", "message"),
    [
        (["dfew", "ferv39k"], 2, None, "data.sets=['dfew', 'ferv39k'] is unknown; choose among dfew and mafw"),
        ([], 2, None, "data.sets=[] is unknown"),
        (["dfew", "ravdess"], 2, None, "ravdess is a test set"),
        (["dfew"], 1, None, "set_1.csv: cannot be read"),
        (["mafw"], 2, "MAFW/data/clips/00003.mp4", "has no .mp4 of 1 of 1 clips in Train & Test Set"),
    ],
)
def test_one_clear_error(native, tmp_path, sets, fold, damage, message):
    if damage:
        (native / damage).unlink()
    with pytest.raises(DataError, match=re.escape(message)):
        link_recognition_sets(native, tmp_path / "linked", sets, fold)
    assert not (tmp_path / "linked" / "train.csv").exists()
