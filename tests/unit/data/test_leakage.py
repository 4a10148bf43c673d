"""Evaluation clips in training data, by name and by content."""

import shutil

import pytest

from affectgpt_r1.data.datamodule import OVMERDataModule
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.leakage import SameClip, check_content, known_overlap, leaked_names, same_clips
from affectgpt_r1.data.media_index import index_media
from affectgpt_r1.errors import DataError

HUMAN, CAPTIONS = "track2_train_human.csv", "track2_train_mercaptionplus.csv"


def write_clips(root, contents):
    for name, (video, audio) in contents.items():
        for folder, suffix, content in (("video", "mp4", video), ("audio", "wav", audio)):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / f"{name}.{suffix}").write_bytes(content)


def rows(*names):
    return [ManifestRow(name, (), row=row) for row, name in enumerate(names, start=2)]


def leaks(root, train, evaluation, modalities=("video", "audio", "text")):
    media = index_media([*rows(*train), *rows(*evaluation)], root, modalities, "frame")
    pairs = same_clips(root, rows(*train), rows(*evaluation), media)
    return [(pair.train.name, pair.evaluation.name) for pair in pairs]


def test_clips_are_the_same_if_all_their_files_are(tmp_path):
    write_clips(
        tmp_path,
        {
            "a": (b"picture", b"sound"), "b": (b"picturE", b"sound"), "c": (b"picture", b"sounds"),
            "d": (b"", b""),
            "x": (b"picture", b"sound"), "y": (b"picture", b"sound"), "z": (b"other", b"more"), "w": (b"", b""),
        },
    )  # fmt: skip
    train, evaluation = ("a", "b", "c", "d"), ("w", "x", "y", "z")
    assert leaks(tmp_path, train, evaluation) == [("a", "x"), ("a", "y")]
    assert leaks(tmp_path, train, evaluation, ["audio"]) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert leaks(tmp_path, train, evaluation, ["text"]) == []
    assert leaks(tmp_path, (), evaluation) == []


def test_contents_are_read_only_where_sizes_and_openings_agree(tmp_path, monkeypatch):
    long = b"0" * 5000
    write_clips(
        tmp_path,
        {
            "a": (b"1", b"1"), "b": (b"22", b"1"), "c": (long + b"1", b"1"),
            "x": (b"333", b"1"), "y": (b"22", b"2"), "z": (long + b"2", b"1"),
        },
    )  # fmt: skip
    read = []
    original = type(tmp_path).read_bytes
    monkeypatch.setattr(type(tmp_path), "read_bytes", lambda path: read.append(path.stem) or original(path))
    assert leaks(tmp_path, ("a", "b", "c"), ("x", "y", "z")) == []
    assert set(read) == {"c", "z"}  # b and y have the same sizes and other openings


def test_the_error_names_pairs_and_rows(tmp_path):
    write_clips(tmp_path, {"a": (b"1", b"1"), "x": (b"1", b"1")})
    pair = SameClip(*rows("a"), *rows("x"))
    media = index_media(rows("a", "x"), tmp_path, ["video"], "frame")
    assert same_clips(tmp_path, [pair.train], [pair.evaluation], media) == [pair]
    with pytest.raises(
        DataError, match=r"1 training clips have the same media .*: a \(row 2\) = x \(row 2\); take them"
    ):
        check_content(tmp_path, rows("a"), rows("x"), media)


@pytest.fixture
def root(tmp_path, tiny_data_root):
    return tiny_data_root(tmp_path / "data")


def set_up(root, **options):
    OVMERDataModule(str(root), test_labels="test.csv", val_fraction=0.25, **options).setup("fit")


def test_the_data_module_compares_contents(root):
    for file in ("video/{}.mp4", "audio/{}.wav", "openface_face/{0}/{0}.npy"):
        shutil.copy(root / file.format("sample_09"), root / file.format("sample_01"))
    with pytest.raises(DataError, match=r"sample_01 \(row 3\) = sample_09 \(row 3\)"):
        set_up(root)
    set_up(root, modalities=["text"])


def test_the_data_module_looks_into_what_the_initial_policy_read(root):
    (root / "seen.csv").write_text("name,openset\nsample_10,sad\nelsewhere,sad\n")
    set_up(root)
    with pytest.raises(DataError, match=r"1 evaluation clips are in .*seen\.csv \(data\.seen_labels\).*: sample_10;"):
        set_up(root, seen_labels=["seen.csv"])
    with pytest.raises(DataError, match=r"2 evaluation clips are in .*mercaptionplus\.csv"):
        set_up(root, seen_labels=[CAPTIONS])  # the two that validate
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        set_up(root, seen_labels=["gone.csv"])


def test_published_files_that_are_known_to_overlap(root):
    assert known_overlap([CAPTIONS, "test.csv", HUMAN]).startswith("548 names are known to be in both")
    assert known_overlap([CAPTIONS, CAPTIONS]) == ""
    (root / HUMAN).write_text("name,openset\nsample_01,sad\n")
    with pytest.raises(DataError, match=r"1 clips are in two splits: sample_01 .*\(548 names are known .*\); take"):
        OVMERDataModule(str(root), CAPTIONS, validation_labels=HUMAN).setup("fit")


def test_leaked_names_keep_their_order(tmp_path):
    (tmp_path / "train.csv").write_text("name,openset\na,sad\nb,sad\n")
    assert leaked_names(tmp_path / "train.csv", ["c", "b", "a"]) == ["b", "a"]
