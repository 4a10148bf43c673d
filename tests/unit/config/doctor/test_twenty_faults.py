"""One data folder with more than twenty faults: one run of the doctor names each, with its remedy."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from affectgpt_r1.cli.doctor import main

TRAIN = "track2_train_mercaptionplus.csv"

# Words of the one finding that tells of a fault, its state, and words of the remedy.
FAULTS = {
    "missing csv": ("problem", r"track2_validation\.csv: no such file", r"set the data folder \(paths\.data\)"),
    "missing column": ("problem", r"track3_\w+\.csv: lacks the column reason; it has name, text", "reason"),
    "byte order mark": ("warning", r"test\.csv: starts with a byte order mark", r"sed -i .*test\.csv"),
    "GBK": ("problem", r"subtitle_chieng\.csv: not UTF-8", r"iconv -f GB18030 -t UTF-8 subtitle_chieng\.csv"),
    "semicolons": ("problem", r"semicolons\.csv: semicolons are between its cells", "save it as 'CSV UTF-8'"),
    "tabs": ("problem", r"tabs\.csv: tabs are between its cells", "save it as 'CSV UTF-8'"),
    "Excel": ("problem", r"excel\.csv: it is an Excel workbook", "save it as 'CSV UTF-8'"),
    "UTF-16": ("problem", r"utf16\.csv: it is in UTF-16", "save it as 'CSV UTF-8'"),
    "seen file missing": ("problem", r"absent\.csv: no such file, which data\.seen_labels", r"data\.seen_labels=\[\]"),
    "test clip was seen": ("problem", r"1 evaluation clips are in .*seen\.csv", "take them out of the evaluation set"),
    "duplicate name": ("problem", r"the name 'sample_00' is in rows 2 and 10", "keep one"),
    "folder in names": (
        "problem",
        r"row 13: the name 'sub/clip' has a folder in it.*row 18 \(sub/other\) alike",
        "file",
    ),
    "short row": ("problem", r"row 14 \(sample_01b\) has no cell for the column openset", "complete the row"),
    "long row": ("problem", r"row 15 \(sample_01c\) has 3 cells, the header 2", "in double quotes"),
    "empty name": ("problem", r"row 16: the name is empty", "rename the clip"),
    "missing mp4": ("problem", r"7 media files are missing .*row 6 \(sample_04\): video/sample_04\.mp4", "fetch them"),
    "name with .mp4": ("problem", r"row 11 \(sample_01\.mp4\)", r"take the suffix off names such as row 11's"),
    "name with blanks": (
        "problem",
        r"row 12 \( sample_02\)",
        r"take the blanks around names such as row 12's ' sample",
    ),
    "test clip in train": ("problem", r"1 clips are in two splits: sample_03 \(rows 5 and 2\)", "take them out"),
    "test clip copied": (
        "problem",
        r"1 training clips have the same media .*: copied \(row 17\) = sample_11",
        "take them",
    ),
    "unknown labels": ("problem", r"test\.csv: no label of its 5 clips is on a wheel", r"another emotion\.lexicon="),
    "unreadable media": ("problem", r"5 of 12 clips cannot be read", "fetch or cut these files again"),
    "other crops": ("warning", r"1 files of face crops are of 20x20 pixels, and 10 of 16x16", "OpenFace"),
    "damaged database": ("problem", r"mlflow\.db: this is not an SQLite database", "logger=csv"),
    "no tokenizer": ("problem", r"No tokenizer at .*tokenizer\.json", "affectgpt-r1 render"),
    "no encoders": ("problem", r"No checkpoint at .*nowhere\.ckpt", "demo/pretrain_encoders"),
}

# What the readers say of each clip that was decoded because a file looks damaged.
UNREADABLE = {
    "sample_00": "face crops must be uint8",
    "sample_02": r"sample_02\.wav: cannot be read as sound",
    "sample_05": r"sample_05\.mp4: ",
    "sample_06": r"sample_06\.wav: ",
    "sample_08": r"sample_08\.mp4: .* \(it is a pointer of Git LFS: fetch the file itself by `git lfs pull`\)",
}


@pytest.fixture
def root(tmp_path, tiny_data_root):
    root = tiny_data_root(tmp_path / "data")
    with (root / TRAIN).open("a") as train:
        train.write(
            "sample_00,sad\nsample_01.mp4,sad\n sample_02,sad\nsub/clip,sad\nsample_01b\nsample_01c,sad,calm\n,sad\n"
            "copied,sad\nsub/other,sad\n"
        )
    (root / "track3_train_mercaptionplus.csv").write_text("name,text\nsample_00,x\n")
    test = "".join(f"sample_{number:02d},traurig\n" for number in (3, 8, 9, 10, 11))
    (root / "test.csv").write_text(f"\ufeffname,openset\n{test}", encoding="utf-8")
    (root / "subtitle_chieng.csv").write_bytes("name,chinese,english\nsample_00,你好,\n".encode("gbk"))
    (root / "semicolons.csv").write_text("name;openset\na;sad\n")
    (root / "tabs.csv").write_text("name\topenset\na\tsad\n")
    (root / "excel.csv").write_bytes(b"PK\x03\x04workbook")
    (root / "utf16.csv").write_bytes("name,openset\na,sad\n".encode("utf-16"))
    (root / "seen.csv").write_text("name,openset\nsample_09,sad\n")
    for folder, suffix in (("video", "mp4"), ("audio", "wav")):
        shutil.copy(root / folder / f"sample_11.{suffix}", root / folder / f"copied.{suffix}")
    (root / "openface_face" / "copied").mkdir()
    shutil.copy(root / "openface_face/sample_11/sample_11.npy", root / "openface_face/copied/copied.npy")
    np.save(root / "openface_face/sample_00/sample_00.npy", np.zeros((4, 16, 16, 3), np.float32))
    np.save(root / "openface_face/sample_07/sample_07.npy", np.zeros((4, 20, 20, 3), np.uint8))
    (root / "video/sample_04.mp4").unlink()
    clip = root / "video/sample_05.mp4"
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    (root / "audio/sample_02.wav").write_text("<html>Please log in</html>")
    (root / "audio/sample_06.wav").write_bytes(b"")
    (root / "video/sample_08.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return root


def test_every_fault_is_named_in_one_run(root, tmp_path, capsys):
    outputs, report = tmp_path / "outputs", tmp_path / "report.json"
    outputs.mkdir()
    (outputs / "mlflow.db").write_text("not a database")
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                f"paths.data={root}", f"paths.outputs={outputs}", "data.test_labels=test.csv", "data.visual=both",
                "data.seen_labels=[semicolons.csv,tabs.csv,excel.csv,utf16.csv,absent.csv,seen.csv]",
                "encoders_from=nowhere.ckpt", "evaluate_after=true", "data.num_frames=2", "--decode", "4",
                "--json", str(report),
            ]
        )  # fmt: skip
    assert stopped.value.code == 2
    written = json.loads(report.read_text("utf-8"))
    findings = [finding for finding in written["findings"] if finding["state"] != "ok"]
    told = {}
    for fault, (state, words, remedy) in FAULTS.items():
        matches = [finding for finding in findings if re.search(words, finding["text"])]
        assert len(matches) == 1, (fault, matches)
        assert matches[0]["state"] == state, fault
        assert re.search(remedy, f"{matches[0]['text']} {matches[0]['remedy']}"), fault
        told[fault] = findings.index(matches[0])
    rest = [finding["text"] for number, finding in enumerate(findings) if number not in told.values()]
    assert rest == []  # and nothing else is complained of
    unreadable = dict(line.split(": ", 1) for line in findings[told["unreadable media"]]["items"])
    assert unreadable.keys() == UNREADABLE.keys()
    for name, reason in UNREADABLE.items():
        assert re.search(reason, unreadable[name]), unreadable[name]
    missing = findings[told["missing mp4"]]["items"]
    assert "video/sample_04.mp4" in missing
    assert len(missing) == 7
    screen = capsys.readouterr().out
    assert screen.count("✗ ") == written["problems"] == len({told[fault] for fault in FAULTS}) - 2
    assert screen.count("! ") == written["warnings"] == 2
    assert screen.rstrip().endswith("the run would fail")
