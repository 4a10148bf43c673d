"""A large manifest is read once; later starts and other processes map what was kept."""

import logging
import pickle

import pytest

from affectgpt_r1.data import datamodule as module
from affectgpt_r1.data.datamodule import MERCaptionDataModule, OVMERDataModule
from affectgpt_r1.data.fill_feature_store import fill_feature_store
from affectgpt_r1.errors import DataError


@pytest.fixture
def root(tmp_path, tiny_data_root, monkeypatch):
    monkeypatch.setattr(module, "KEPT_FROM", 4)
    return tiny_data_root(tmp_path / "data")


def ready(root, kind=OVMERDataModule, **options):
    defaults = {"test_labels": "test.csv", "image_size": 16, "manifests": str(root.parent / "kept")}
    data = kind(str(root), **(defaults | options))
    data.setup()
    return data


@pytest.fixture
def never_read(monkeypatch):
    def forbid():
        monkeypatch.setattr(module, "read_splits", lambda *_, **__: pytest.fail("read again"))
        monkeypatch.setattr(module, "index_media", lambda *_, **__: pytest.fail("looked at media again"))

    return forbid


def test_what_is_kept_is_what_was_read(root, never_read, caplog):
    read = ready(root, MERCaptionDataModule, manifests=None, questions=["description"])
    ready(root, MERCaptionDataModule, questions=["description"])
    never_read()
    with caplog.at_level(logging.INFO):
        kept = ready(root, MERCaptionDataModule, questions=["description"])
    assert "as an earlier start found them" in caplog.text
    for mapped, listed in zip(kept.splits[:3], read.splits[:3], strict=True):
        assert list(mapped) == listed
        assert [mapped[number] for number in range(len(mapped))] == listed
        assert mapped.names() == [row.name for row in listed]
        assert mapped[-1] == listed[-1]
        assert mapped[1:].names() == [row.name for row in listed[1:]]
        assert list(pickle.loads(pickle.dumps(mapped))) == listed
        with pytest.raises(IndexError):
            mapped[len(listed)]
    rows = read.splits.rows()
    assert list(kept.splits.rows()) == rows
    assert list(kept.splits.rows()[1::3]) == rows[1::3]
    assert kept.media_identities(rows) == read.media_identities(rows)
    assert kept.splits.rows()[1::3].identities() == list(read.media_identities(rows[1::3]).values())
    assert kept.num_train_batches(2) == read.num_train_batches(2)
    assert kept.label_files() == read.label_files()


def test_other_files_settings_and_media_are_read_again(root):
    options = {"modalities": ["video", "text"]}
    ready(root)
    ready(root, **options)
    assert len(list((root.parent / "kept").glob("*.lock"))) == 2
    (root / "audio" / "sample_00.wav").unlink()
    (root / "video" / "sample_00.mp4").unlink()
    ready(root, **options)  # needs no sound
    with pytest.raises(DataError, match=r"row 2 \(sample_00\): audio/sample_00\.wav"):
        ready(root)
    labels = root / "test.csv"
    labels.write_text(labels.read_text().replace("happy", "sad"))
    assert all("happy" not in row.labels for row in ready(root, **options).splits.test)


def test_media_that_were_written_to_in_place_are_noticed_on_request(root):
    clip = root / "audio" / "sample_09.wav"
    before = ready(root).media_identities(ready(root).splits.test)
    clip.write_bytes(clip.read_bytes() + b"\0")
    assert ready(root).media_identities(ready(root).splits.test) == before
    checked = ready(root, recheck=True)
    after = checked.media_identities(checked.splits.test)
    assert [name for name in before if before[name] != after[name]] == ["sample_09"]
    assert ready(root).media_identities(checked.splits.test) == after


def test_damage_is_told_and_read_again(root, caplog):
    expected = list(ready(root).splits.train)
    (rows,) = (root.parent / "kept").glob("*/rows.jsonl")
    rows.write_bytes(rows.read_bytes().replace(b"sample_03", b"sample_33"))
    assert list(ready(root).splits.train) == expected
    assert "rows.jsonl is not what its checksum says" in caplog.text
    (rows.parent / "splits.json").write_text("[]")
    assert list(ready(root).splits.train) == expected


def test_features_are_filled_from_mapped_rows(root, tmp_path):
    def encode(batch):
        return {"video": batch.frames.float().mean(dim=(-1, -2)), "audio": batch.waveforms.std(dim=-1, keepdim=True)}

    asked = []
    for _ in range(2):
        data = ready(root, feature_store=str(tmp_path / "features"))
        data.open_feature_store("encoders")
        fill_feature_store(data, lambda missing: asked.append(missing) or encode)
    assert asked == [12]
    (batch,) = data.test_dataloader()
    assert batch.names == tuple(row.name for row in data.splits.test)


def test_a_small_folder_keeps_nothing(root, monkeypatch):
    monkeypatch.setattr(module, "KEPT_FROM", 9)
    assert isinstance(ready(root).splits.train, list)
    assert not (root.parent / "kept").exists()
