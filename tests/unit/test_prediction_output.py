"""`predict --output`: what it may overwrite, names it must keep, and a disk that is full."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from affectgpt_r1.predict import main


@pytest.fixture
def stub(monkeypatch):
    """In the policy's place, for what happens around it."""
    row = {"labels": ["happy"], "reasoning": "Smiles, 映画."}
    answers = lambda path, subtitle: {"file": str(path), "said": subtitle, **row}  # noqa: E731
    monkeypatch.setattr("affectgpt_r1.predict.load_predictor", lambda options: answers)


@pytest.mark.parametrize("other", ["linked.mp4", "clip.srt", "best.ckpt", "said.srt"])
def test_no_file_that_is_read_is_overwritten(stub, tmp_path: Path, capsys, other: str):
    for name in ("clip.mp4", "best.ckpt", "said.srt", "clip.srt"):
        (tmp_path / name).write_text("1\n00:00:01,000 --> 00:00:02,000\nNever mind.\n", "utf-8")
    os.link(tmp_path / "clip.mp4", tmp_path / "linked.mp4")
    before = (tmp_path / other).read_bytes()
    subtitle = ["--subtitle", str(tmp_path / "said.srt")] if other == "said.srt" else []
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "clip.mp4"), "--checkpoint", str(tmp_path / "best.ckpt"), *subtitle,
              "--output", str(tmp_path / other)])  # fmt: skip
    assert stop.value.code == 2
    assert f"{other}: is one of the files that are read" in capsys.readouterr().err
    assert (tmp_path / other).read_bytes() == before


def test_an_output_that_exists_is_written_anew(stub, tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "rows.jsonl").write_text("old\n" * 9)
    said = "I am sad. " * 50  # too long for a file name
    main([str(tmp_path / "clip.mp4"), "--output", str(tmp_path / "rows.jsonl"), "--subtitle", said])
    row = json.loads((tmp_path / "rows.jsonl").read_text("utf-8"))
    assert (row["file"], row["said"], row["reasoning"]) == (str(tmp_path / "clip.mp4"), said, "Smiles, 映画.")


def test_a_full_disk_is_one_line(stub, tmp_path: Path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "clip.mp4"), "--output", "/dev/full"])
    assert stop.value.code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("--output /dev/full: cannot be written: No space left on device")
    )


def test_a_name_that_is_no_utf_8_is_written_and_read_back(stub, tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9" + b"e" * 251)
    path.write_bytes(b"")  # and with .srt its name would be too long
    main([str(path), "--output", str(tmp_path / "rows.jsonl")])
    row = json.loads((tmp_path / "rows.jsonl").read_bytes())
    assert os.fsencode(row["file"]) == os.fsencode(path)
