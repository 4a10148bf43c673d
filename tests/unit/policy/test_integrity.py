"""A file with one wrong bit is refused, and so are weights that are not finite: every reader of weights says so."""

from __future__ import annotations

import os
import random
import zipfile
from math import inf, nan

import pytest
import torch

from affectgpt_r1.callbacks.checkpoints import AtomicCheckpointIO
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import load_encoder_weights, load_policy_weights, read_checkpoint
from affectgpt_r1.policy.published_weights import read_published

READERS = [read_checkpoint, AtomicCheckpointIO().load_checkpoint, read_published]


@pytest.fixture
def path(tmp_path):
    """A checkpoint with one weight of 40 kB."""
    torch.save({"state_dict": {"policy.weight": torch.rand(10_000)}, "config": {"seed": 1}}, tmp_path / "one.ckpt")
    return tmp_path / "one.ckpt"


def record(path, end: str) -> range:
    """Where a record's bytes are in the file."""
    with zipfile.ZipFile(path) as archive:
        (info,) = (one for one in archive.infolist() if one.filename.endswith(end))
    header = path.read_bytes()[info.header_offset :]
    start = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return range(start, start + info.file_size)


def damage(path, end: str, kind: str) -> None:
    content, place, draw = bytearray(path.read_bytes()), record(path, end), random.Random(0)
    if kind == "bit":
        content[draw.choice(place)] ^= 1 << draw.randrange(8)
    else:
        new = bytes(4096) if kind == "zeros" else os.urandom(4096)
        content[place.start : place.start + 4096] = new
    path.write_bytes(content)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["bit", "zeros", "random"])
def test_damaged_weights_are_refused_by_every_reader(path, read, kind):
    read(path)
    damage(path, "/data/0", kind)
    with pytest.raises(CheckpointError, match=r"one\.ckpt.*Bad CRC-32"):
        read(path)


def test_who_reads_the_settings_alone_verifies_them_alone(path):
    damage(path, "/data/0", "bit")
    assert read_checkpoint(path, mmap=True)["config"] == {"seed": 1}
    damage(path, "/data.pkl", "bit")
    with pytest.raises(CheckpointError, match="Bad CRC-32"):
        read_checkpoint(path, mmap=True)


@pytest.mark.parametrize("read", READERS)
def test_content_larger_than_its_file_is_not_unpacked(path, tmp_path, read):
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for one in plain.namelist():
            packed.writestr(one, bytes(1 << 24) if one.endswith("/data/0") else plain.read(one))
    assert bomb.stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match=r"bomb\.ckpt.*larger than the file"):
        read(bomb)


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", ["state_dict", "reference"])
def test_a_weight_that_is_not_finite_is_named(tmp_path, value, dtype, part):
    weights = {"policy.empty": torch.zeros(0), "policy.count": torch.ones(2, dtype=torch.int64)}
    weights["policy.bias"] = torch.tensor([1.0, value, -1.0], dtype=dtype)
    torch.save({"state_dict": {}, part: weights}, tmp_path / "one.ckpt")
    with pytest.raises(CheckpointError, match=r"one\.ckpt.*policy\.bias is NaN or infinite"):
        read_checkpoint(tmp_path / "one.ckpt")


def test_published_weights_that_are_not_finite_are_named(tmp_path):
    torch.save({"model": {"layer.weight": torch.tensor([nan])}}, tmp_path / "released.pth")
    with pytest.raises(CheckpointError, match=r"released\.pth: layer\.weight is NaN"):
        read_published(tmp_path / "released.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_published_file_of_the_old_format_is_read_without_crcs(tmp_path, legacy):
    torch.save({"w": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_published(tmp_path / "old.pth").tensors["w"], torch.ones(3))


def test_policy_and_encoders_are_left_as_they_were(tiny_policy, tmp_path):
    before = {name: one.clone() for name, one in tiny_policy.state_dict().items()}
    state = {f"policy.{name}": torch.zeros_like(one) for name, one in before.items()}
    torch.save({"state_dict": state}, tmp_path / "one.ckpt")
    damage(tmp_path / "one.ckpt", "/data/0", "bit")
    for load in (
        lambda: load_policy_weights(tiny_policy, tmp_path / "one.ckpt"),
        lambda: load_encoder_weights(tiny_policy.encoders, tmp_path / "one.ckpt"),
    ):
        with pytest.raises(CheckpointError, match="Bad CRC-32"):
            load()
    assert all(torch.equal(one, before[name]) for name, one in tiny_policy.state_dict().items())
