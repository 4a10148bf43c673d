"""Unreadable clips through a run: skipped, counted, listed; too many of them end it."""

from __future__ import annotations

import csv
import shutil

import pytest

from affectgpt_r1.errors import DataError


@pytest.fixture
def damaged(workspace, tmp_path):
    """Copy the data; its second caption clip has a wav without a byte."""
    data = tmp_path / "data"
    shutil.copytree(workspace / "data", data)
    (data / "audio" / "synthetic_caption_00001.wav").write_bytes(b"")
    return data


@pytest.mark.parametrize("store", ["data.feature_store=null", "data.feature_store={}/features"])
def test_an_unreadable_clip_is_listed_and_training_continues(run_stage, damaged, tmp_path, store):
    """With media streamed it is resampled when it is met; with stored features it is met when the store is filled."""
    options = (f"paths.data={damaged}", "data.max_unreadable_fraction=0.5", store.format(tmp_path))
    folder = run_stage("sft", tmp_path / "run", 6, *options)
    rows = list(csv.DictReader((folder / "unreadable_clips.csv").open(encoding="utf-8")))
    assert [row["name"] for row in rows] == ["synthetic_caption_00001"]
    assert "synthetic_caption_00001.wav" in rows[0]["reason"]
    assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_too_many_unreadable_clips_end_the_run(run_stage, damaged, tmp_path):
    options = (f"paths.data={damaged}", "data.max_unreadable_fraction=0.01", f"data.feature_store={tmp_path}/features")
    with pytest.raises(DataError, match=r"synthetic_caption_00001\.wav"):
        run_stage("sft", tmp_path / "run", 6, *options)
