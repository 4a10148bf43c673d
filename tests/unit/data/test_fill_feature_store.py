"""Two processes fill a common feature store, or one each, as a single process does; one failure ends both."""

import time

import pytest
import torch
from torch import distributed

from affectgpt_r1.data.datamodule import OVMERDataModule
from affectgpt_r1.data.fill_feature_store import fill_feature_store
from affectgpt_r1.errors import DataError
from helpers.processes import join_gloo, run_two


@pytest.fixture
def root(tmp_path, tiny_data_root):
    return tiny_data_root(tmp_path / "data")


def encode(batch):
    return {"video": batch.frames.float().mean(dim=(-1, -2)), "audio": batch.waveforms.std(dim=-1, keepdim=True)}


def opened(root, store):
    options = {"test_labels": "test.csv", "image_size": 16, "eval_batch_size": 2, "feature_store": str(store)}
    data = OVMERDataModule(str(root), **options)
    data.setup()
    data.open_feature_store("encoders")
    return data


def fill(rank, root, stores, folder):
    """Fill a process's store; note how many clips it encoded, and then lacks."""
    join_gloo(rank, folder)
    data, counts = opened(root, stores[rank]), []
    try:
        unreadable = fill_feature_store(data, lambda missing: counts.append(missing) or encode)
        torch.save((counts, unreadable.count, len(data.rows_without_features(data.features))), folder / f"{rank}.pt")
    except DataError as error:
        torch.save(str(error), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def results(folder):
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_processes_store_what_one_does_and_go_on_after_an_interruption(root, tmp_path):
    alone = opened(root, tmp_path / "alone")
    fill_feature_store(alone, lambda missing: encode)
    shared = tmp_path / "shared"
    left = opened(root, shared)
    every = left.splits.rows()
    for row in every[0:6:2]:  # of the first process's six clips three were stored
        left.features.write(row.name, alone.features.read(row.name), left.media_identities([row])[row.name])
    run_two(fill, root, [shared, shared], tmp_path)
    assert results(tmp_path) == [([3], 0, 0), ([6], 0, 0)]
    for row in every:
        first, second = alone.features.read(row.name), left.features.read(row.name)
        assert first.keys() == second.keys() == {"video", "audio"}
        assert all(torch.equal(first[kind], second[kind]) for kind in first)
    assert [file.name for file in left.features.folder.iterdir() if file.is_file()] == []  # no mark is left


def test_machines_that_share_no_folder_hold_every_clip_each(root, tmp_path):
    run_two(fill, root, [tmp_path / "here", tmp_path / "there"], tmp_path)
    assert results(tmp_path) == [([12], 0, 0), ([12], 0, 0)]


def test_the_share_of_unreadable_clips_is_that_of_all(root, tmp_path):
    """Two in twelve: the process that lost none fails, too, instead of training alone."""
    lost = [row.name for row in opened(root, tmp_path / "store").splits.rows()[1:4:2]]
    for name in lost:
        (root / "audio" / f"{name}.wav").write_bytes(b"")
    run_two(fill, root, [tmp_path / "store"] * 2, tmp_path)
    first, second = results(tmp_path)
    assert first == second
    assert first.startswith("2 of 12 drawn clips could not be read")
    assert all(name in first for name in lost)


def fail_in_second(rank, root, store, folder):
    join_gloo(rank, folder)

    def fails(batch):
        raise OSError("disk full")

    started = time.monotonic()
    try:
        fill_feature_store(opened(root, store), lambda missing: fails if rank else encode)
    except (OSError, RuntimeError) as error:
        (folder / f"{rank}.txt").write_text(type(error).__name__)
    finally:
        distributed.destroy_process_group()
    assert time.monotonic() - started < 60


def test_the_failure_of_one_process_ends_the_others_waiting(root, tmp_path):
    run_two(fail_in_second, root, tmp_path / "store", tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["RuntimeError", "OSError"]
