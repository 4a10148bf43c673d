"""What a sweep's leader reads of its jobs."""

from __future__ import annotations

import json

import pytest

from affectgpt_r1.config.sweep import TRIAL_FILE, read_entries


@pytest.mark.parametrize("jobs", [["0", "2", "10"], ["seed=1", "seed=2", "seed=10"]])
def test_jobs_are_read_in_their_order_whatever_their_folders_are_called(tmp_path, jobs):
    for place, job in enumerate(jobs):
        (tmp_path / job).mkdir()
        (tmp_path / job / TRIAL_FILE).write_text(json.dumps({"place": place}))
    (tmp_path / "99").mkdir()

    assert read_entries(tmp_path) == [{"place": place} for place in range(len(jobs))]


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b'{"place"', b"[1]", b"\xff"])
def test_a_damaged_entry_is_left_out_and_named(tmp_path, caplog, content):
    for job, written in (("0", content), ("1", b'{"place": 1}')):
        (tmp_path / job).mkdir()
        (tmp_path / job / TRIAL_FILE).write_bytes(written)
    assert read_entries(tmp_path) == [{"place": 1}]
    assert f"{tmp_path / '0' / TRIAL_FILE} is damaged" in caplog.text
