import numpy as np
import pytest
import torch
from safetensors import SafetensorError
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
    assert all(torch.equal(read[key], features[key]) for key in features)
    # sha256("a") begins with "ca".
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["store/ca/a.safetensors"]


def test_absent_and_damaged_features_are_named(tmp_path):
    store = FeatureStore(tmp_path)
    with pytest.raises(DataError, match="no features of 'a'; fill the feature store"):
        store.read("a")
    store.write("a", {"video": torch.zeros(1)})
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"a\.safetensors: .*the same command encodes its clip again"):
        store.read("a")


def damages(content: bytes) -> dict[str, bytes]:
    half, bits = len(content) // 2, bytearray(content)
    bits[-7] ^= 1
    return {
        "cut": content[:half],
        "empty": b"",
        "zeroed": bytes(len(content)),
        "noise": content[:half] + np.random.default_rng(1).bytes(half),
        "flipped": bytes(bits),
        "flipped header": content.replace(b"crc32", b"crc33").replace(b'"shape":[64]', b'"shape":[32]'),
        "deep header": (1 << 19).to_bytes(8, "little") + b"[" * (1 << 19),
    }


@pytest.mark.parametrize("kind", damages(b"x" * 64))
def test_a_damaged_file_counts_as_missing_and_is_named(tmp_path, kind):
    store = FeatureStore(tmp_path)
    store.write("a", {"video": torch.arange(64.0)}, "seen")
    assert store.has("a", "seen")
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(damages(path.read_bytes())[kind])
    assert not store.has("a", "seen")
    assert store.damaged == ["a"]
    with pytest.raises(DataError, match="damaged"):
        store.read("a")


def test_features_without_a_checksum_are_of_an_older_version(tmp_path):
    store = FeatureStore(tmp_path)
    store.write("a", {"video": torch.zeros(2)})
    save_file({"video": torch.ones(2)}, next(tmp_path.rglob("*.safetensors")), {"media": "seen"})
    assert store.has("a", "seen")


def test_a_failing_write_leaves_the_earlier_features(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path)
    store.write("a", {"video": torch.zeros(2)})

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("affectgpt_r1.data.feature_store.save_file", full_disk)
    with pytest.raises(WriteError, match=r"a\.safetensors: .*No space left on device; make room.* paths.features="):
        store.write("a", {"video": torch.ones(2)})
    assert store.read("a")["video"].tolist() == [0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


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
    next(tmp_path.rglob("a.safetensors")).write_bytes(b"\xff" * 40)
    assert not store.has("a", "seen")  # damaged: encoded again


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
