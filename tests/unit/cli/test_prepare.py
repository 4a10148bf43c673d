"""`prepare` and `crop-faces` as commands: what they print, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from affectgpt_r1.cli.crop_faces import main as crop_faces
from affectgpt_r1.cli.prepare import main as prepare


def test_looking_writes_nothing(tmp_path, write_mp4, capsys):
    write_mp4(tmp_path / "a.mp4", 2)
    (tmp_path / "labels.csv").write_text("clip,emotion\na,sad\n")
    prepare([str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "1 clip (1 .mp4)",
        f"table {tmp_path}/labels.csv: 1 clip; 'clip' as name, 'emotion' as openset",
        "1 of 1 clips have labels",
        f"Nothing was written. To prepare them: affectgpt-r1 prepare {tmp_path} --output FOLDER",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "labels.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "label=x"], "--columns label=...: give name=COLUMN, openset=COLUMN"),
        (["--modalities", "face"], "--modalities face: give some of video,audio,text, with commas"),
        (["--val-fraction", "0.7"], "--val-fraction 0.7: give a number from 0 to 0.5"),
        (["--frames", "0"], "--frames and --workers are at least 1"),
        ([], "is not a folder; name the folder that holds your videos"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        prepare([str(tmp_path / "none"), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_crops_that_a_published_set_lacks(tmp_path, tiny_data_root, capsys):
    root = tiny_data_root(tmp_path, 2, 1)
    crops = root / "openface_face" / "sample_01" / "sample_01.npy"
    crops.unlink()
    kept = (root / "openface_face" / "sample_00" / "sample_00.npy").read_bytes()
    command = [str(root), "--faces", "centre", "--frames", "8"]
    crop_faces([*command, "--dry-run"])
    assert capsys.readouterr().out == "2 clips have crops, 1 do not\n"
    crop_faces(command)
    assert capsys.readouterr().out.splitlines()[1] == f"{root}/openface_face: 1 new, a face in 8 of 8 frames"
    written = np.load(crops)
    assert (written.shape, written.dtype) == ((8, 112, 112, 3), np.uint8)
    assert written[0, 56, 10, 2] > 150 > 60 > written[0, 56, 10, 0]  # the left half is red, and the file is BGR
    assert (root / "openface_face" / "sample_00" / "sample_00.npy").read_bytes() == kept
    crop_faces(command)
    assert capsys.readouterr().out == "3 clips have crops, 0 do not\n"


def test_a_clip_without_a_face_is_listed(tmp_path, tiny_data_root, capsys):
    root = tiny_data_root(tmp_path, 2, 1)
    (root / "openface_face" / "sample_01" / "sample_01.npy").unlink()
    with pytest.raises(SystemExit) as stopped:
        crop_faces([str(root), "--names", "track2_train_ovmerd.csv", "--frames", "2"])
    assert stopped.value.code == 1
    assert capsys.readouterr().out.splitlines()[1] == "sample_01: no face in 2 frames"
