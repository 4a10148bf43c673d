import hashlib
import pickle
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from affectgpt_r1.data.feature_store import FeatureStore, store_features
from affectgpt_r1.errors import DataError, MediaError, WriteError
from affectgpt_r1.types import ClipBatch, UnreadableClip


def batch(*names, unreadable=()):
    return ClipBatch(names, ("",) * len(names), ((),) * len(names), ("",) * len(names), ((),) * len(names),
                     unreadable=unreadable)  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    store = FeatureStore(tmp_path / "store")
    features = {"video": torch.randn(8, 4).T, "audio": torch.randn(8, 6, requires_grad=True)}
    assert not store.has("a")
    store.write("a", features)
    read = store.read("a")
    assert store.has("a")
    assert read.keys() == features.keys()
    assert all(torch.equal(read[key], features[key].half().float()) for key in features)
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".pack"]


@pytest.fixture
def store(tmp_path):
    """Three clips of media "seen", in one pack."""
    store = FeatureStore(tmp_path)
    store.reserve(3)
    for number, name in enumerate("abc"):
        store.write(name, {"video": torch.arange(64.0) + number}, "seen")
    store.finish()
    return store


def pack_of(store):
    (pack,) = store.folder.glob("*.pack")
    return pack


def test_a_pack_is_as_long_as_its_clips_are_many(store):
    assert (pack_of(store) / "features.f16").stat().st_size == 3 * 64 * 2
    assert (pack_of(store) / "index.bin").stat().st_size == 3 * 32


def test_absent_and_damaged_features_are_named(store):
    with pytest.raises(DataError, match="no features of 'd'; fill the feature store"):
        store.read("d")
    assert store.read("b")["video"][0] == 1
    with (pack_of(store) / "features.f16").open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    with pytest.raises(DataError, match=r"features\.f16: the features of 'b' are damaged; the same command encodes"):
        store.read("b")
    again = FeatureStore(store.folder)
    assert again.lacking(["a", "b", "c"], ["seen"] * 3) == [1]


def test_what_another_process_writes_is_found(store):
    assert store.has("a", "seen")
    FeatureStore(store.folder).write("d", {"video": torch.ones(2)})
    assert store.read("d")["video"].tolist() == [1, 1]


def damages(content: bytes) -> dict[str, bytes]:
    half, bits = len(content) // 2, bytearray(content)
    bits[-7] ^= 1
    return {
        "cut": content[: half - 3],
        "empty": b"",
        "zeroed": bytes(len(content)),
        "noise": content[:half] + np.random.default_rng(1).bytes(half),
        "flipped": bytes(bits),
        "deep": b"[" * (1 << 19),
    }


@pytest.mark.parametrize("file", ["features.f16", "index.bin", "layout.json"])
@pytest.mark.parametrize("kind", damages(b"x" * 64))
def test_what_is_damaged_counts_as_missing(store, file, kind):
    path = pack_of(store) / file
    path.write_bytes(damages(path.read_bytes())[kind])
    again = FeatureStore(store.folder)
    missing = again.lacking(list("abc"), ["seen"] * 3)
    assert 2 in missing
    for position in {0, 1, 2} - set(missing):
        assert again.read("abc"[position])["video"].tolist() == [position + number for number in range(64)]
    with pytest.raises(DataError, match="features of 'c'; fill the feature store first"):
        again.read("c")
    for position in missing:
        again.write("abc"[position], {"video": torch.zeros(64)}, "seen")
    assert FeatureStore(store.folder).lacking(list("abc"), ["seen"] * 3) == []


def test_a_pack_that_was_left_checked_is_not_read_again(store, monkeypatch):
    monkeypatch.setattr("affectgpt_r1.data.feature_store._Pack.check", lambda pack: pytest.fail("read"))
    assert FeatureStore(store.folder).lacking(["a"], ["seen"]) == []


def test_a_pack_that_may_only_be_read_is_used(store):
    with (pack_of(store) / "features.f16").open("r+b") as file:
        file.write(b"damage")
    before = [path.read_bytes() for path in sorted(pack_of(store).iterdir())]
    with patch("os.access", return_value=False):
        assert FeatureStore(store.folder).lacking(list("abc"), ["seen"] * 3) == [0]
    assert [path.read_bytes() for path in sorted(pack_of(store).iterdir())] == before


def older(folder, name, tensors, media):
    path = folder / hashlib.sha256(name.encode()).hexdigest()[:2] / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"media": media})


def test_features_of_an_earlier_version_are_taken_over(tmp_path):
    store = FeatureStore(tmp_path)
    older(tmp_path, "a", {"video": torch.ones(2)}, "seen")
    assert not store.has("a", "seen")
    assert not store.take_over("a", "replaced")
    assert not store.take_over("b", "seen")
    assert store.take_over("a", "seen")
    assert store.has("a", "seen")
    assert store.read("a")["video"].tolist() == [1, 1]
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"damaged")
    assert not store.take_over("a", "seen")


def test_a_failing_write_leaves_the_earlier_features(store, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    other = FeatureStore(store.folder)
    other.reserve(132_000)
    with pytest.raises(
        WriteError, match=r"\.pack: .* 0\.0 GiB are needed: No space left.*; make room, or choose another"
    ):
        other.write("a", {"video": torch.ones(2)})
    monkeypatch.undo()

    def full_disk(path, data, offset):
        raise WriteError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr("affectgpt_r1.data.feature_store._write", full_disk)
    with pytest.raises(WriteError, match="No space left"):
        store.write("a", {"video": torch.ones(64)})
    assert FeatureStore(store.folder).read("a")["video"][1] == 1
    assert FeatureStore(store.folder).lacking(list("abc"), ["seen"] * 3) == []


def test_values_beyond_16_bits_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"features of 'a' reach 70000, beyond 16-bit.*data\.feature_store=null"):
        FeatureStore(tmp_path).write("a", {"video": torch.tensor([1.0, -7e4])})


def test_a_copy_for_another_process_reads_the_same_folder(store):
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.read("b")["video"], store.read("b")["video"])


def test_other_media_make_features_stale(tmp_path):
    store = FeatureStore(tmp_path / "store")
    store.write("a", {"video": torch.zeros(1)}, "seen")
    store.mark_unreadable(UnreadableClip("b", "broken"), "seen")
    assert store.has("a", "seen")
    assert store.is_unreadable("b", "seen")
    assert not store.has("a", "replaced")
    assert not store.is_unreadable("b", "replaced")
    assert not store.is_unreadable("a", "seen")
    assert not store.has("b", "seen")
    store.write("a", {"video": torch.ones(1)}, "replaced")
    assert store.has("a", "replaced")
    assert store.read("a")["video"].item() == 1


@pytest.mark.parametrize("name", ["x" * 251, "ü" * 125])
def test_a_name_as_long_as_a_file_name_may_be(tmp_path, name: str):
    (tmp_path / f"{name}.mp4").touch()  # the system takes it
    store = FeatureStore(tmp_path / "store")
    store.write(name, {"video": torch.ones(1)}, "seen")
    assert store.has(name, "seen")
    assert store.read(name)["video"].item() == 1
    store.mark_unreadable(UnreadableClip(name, "broken"), "seen")
    assert store.is_unreadable(name, "seen")


def test_filling_stores_rows_and_records_what_was_unreadable(tmp_path):
    store = FeatureStore(tmp_path)
    batches = [batch("a", "b"), batch(unreadable=(UnreadableClip("c", "c.mp4: broken"),)), batch("d")]
    unreadable = store_features(
        store,
        batches,
        lambda given: {"video": torch.tensor([[float(ord(name))] for name in given.names])},
        {name: f"media of {name}" for name in "abcd"},
    )
    assert store.has("d", "media of d")
    assert store.is_unreadable("c", "media of c")
    assert [store.read(name)["video"].item() for name in "abd"] == [97, 98, 100]
    assert (unreadable.count, unreadable.total) == (1, 4)
    with pytest.raises(MediaError, match=r"^c\.mp4: broken$"):
        FeatureStore(tmp_path).read("c")


def test_a_clip_has_features_or_a_refusal_whichever_came_last(tmp_path):
    store = FeatureStore(tmp_path)
    store.write("v1.5", {"video": torch.zeros(1)})
    store.mark_unreadable(UnreadableClip("v1.5", "v1.5.mp4: größer als gedacht"))
    assert not store.has("v1.5")
    with pytest.raises(MediaError, match="größer"):
        store.read("v1.5")
    store.write("v1.5", {"video": torch.ones(1)})
    assert not store.is_unreadable("v1.5")
    assert store.read("v1.5")["video"].item() == 1
