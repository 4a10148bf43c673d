"""`predict --output`: what it may overwrite, names it must keep, and a disk that is full."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from affectgpt_r1.cli.predict import main
from affectgpt_r1.data.media.subtitles import spoken
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.inference.load_policy import newest_checkpoint


@pytest.fixture
def stub(monkeypatch):
    """In the policy's place, for what happens around it."""
    row = {"labels": ["happy"], "reasoning": "Smiles, 映画."}

    class Answers:
        def rows(self, path, subtitle):
            said = None if subtitle is None else spoken(subtitle.cues)
            yield {"file": str(path), "name": path.stem, "said": said, **row}

    monkeypatch.setattr("affectgpt_r1.cli.predict.load_predictor", lambda *args, **options: Answers())


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


def test_an_existing_output_is_overwritten(stub, tmp_path: Path):
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
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("/dev/full: cannot be written: No space left on device; make room, or choose another --output")


def test_a_name_that_is_not_utf_8_is_written_and_read_back(stub, tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9" + b"e" * 251)
    path.write_bytes(b"")  # and with .srt its name would be too long
    main([str(path), "--output", str(tmp_path / "rows.jsonl")])
    row = json.loads((tmp_path / "rows.jsonl").read_bytes())
    assert os.fsencode(row["file"]) == os.fsencode(path)


def test_files_of_one_name_keep_theirs_apart(stub, tmp_path: Path, capsys):
    (tmp_path / "b").mkdir()
    for name in ("a.mp4", "b/a.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"")
    main([str(tmp_path)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [str(tmp_path / "a.mp4"), str(tmp_path / "b" / "a.mp4"), "c"]


def test_a_failure_to_answer_is_not_blamed_on_the_output(monkeypatch, tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"")

    class Broken:
        def rows(self, path, subtitle):
            raise FileNotFoundError(2, "No such file", "weights.pt")

    monkeypatch.setattr("affectgpt_r1.cli.predict.load_predictor", lambda *args, **options: Broken())
    with pytest.raises(FileNotFoundError, match=r"weights\.pt"):
        main([str(tmp_path / "clip.mp4"), "--output", str(tmp_path / "rows.jsonl")])


def test_the_newest_policy_is_named(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="run `make grpo`"):
        newest_checkpoint()
    for age, run in enumerate(("new/grpo", "old/grpo", "newest/sft")):
        checkpoint = tmp_path / "outputs" / run / "checkpoints" / "best.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"")
        os.utime(checkpoint, (1e9 - age, 1e9 - age) if "sft" not in run else None)
    assert newest_checkpoint() == tmp_path / "outputs" / "new" / "grpo" / "checkpoints" / "best.ckpt"
    assert "new/grpo/checkpoints/best.ckpt, the newest; --checkpoint names another" in capsys.readouterr().err
