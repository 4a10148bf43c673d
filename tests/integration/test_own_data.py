"""From a folder as people keep it to an answer: prepare, SFT, GRPO, evaluate and predict, one command each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from helpers import own_folders
from helpers.films import with_display_matrix
from helpers.forked import run_command

SHORT = ("trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.completions.console_rows=0")
COLUMNS = ("--columns", "name=Datei", "openset=Gefühl")


def _turned(path: Path) -> Path:
    return with_display_matrix(path, (0, 1), (-1, 0))


def _run(folder: Path, *command: str) -> str:
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = run_command(*command)
    finally:
        os.chdir(before)
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    return done.stdout


def _from_prepare_to_predict(folder: Path, *options: str) -> None:
    shown = _run(folder, "prepare", "own", *options)
    assert "Nothing was written" in shown
    assert sorted(path.name for path in folder.iterdir()) == ["own"]
    shown = _run(folder, "prepare", "own", *options, "--output", "my data", "--workers", "1")
    commands = [line.strip() for line in shown.splitlines() if line.startswith("  affectgpt-r1 ")]
    assert [command.split()[1] for command in commands] == ["doctor", "train", "train", "evaluate", "predict"]
    configs = ("--config-dir", "my data/configs")
    assert "the run can start" in _run(folder, "doctor", *configs, "experiment=my_data/sft", "--decode", "0")
    for stage in ("sft", "grpo"):
        _run(folder, "train", *configs, f"experiment=my_data/{stage}", *SHORT, "experiment_name=my_data-seed1")
    _run(folder, "evaluate", *configs, "+experiment=my_data/evaluate")
    summary = json.loads((folder / "outputs" / "my_data-seed1" / "summary.json").read_text())
    assert not summary["synthetic"]
    checkpoint = "outputs/my_data-seed1/grpo/checkpoints/best.ckpt"
    video = next(path for path in (folder / "my data" / "video").iterdir())
    row = json.loads(_run(folder, "predict", str(video), "--checkpoint", checkpoint, "--faces", "centre"))
    assert row["modalities"][0] == "video"  # sound in a file of its own is not predict's


@pytest.mark.slow
def test_six_folders(tmp_path, write_mp4, write_wav):
    own_folders.workbook(tmp_path / "workbook" / "own", write_mp4)
    own_folders.nested(tmp_path / "nested" / "own", write_mp4)
    own_folders.excel_csv(tmp_path / "excel" / "own", write_mp4)
    own_folders.phone(tmp_path / "phone" / "own", write_mp4, _turned)
    own_folders.silent(tmp_path / "silent" / "own", write_mp4, 10)
    own_folders.split_files(tmp_path / "splits" / "own", write_mp4, write_wav)
    for folder, options in {
        "workbook": ("--faces", "centre", "--frames", "8"),
        "nested": (),
        "excel": (*COLUMNS, "--faces", "none"),
        "phone": (),
        "silent": ("--label-by-folder",),
        "splits": ("--faces", "none"),
    }.items():
        _from_prepare_to_predict(tmp_path / folder, *options)
