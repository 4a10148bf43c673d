"""``predict --data``: a data folder's clips and MER-UniBench's sets, answered as `score` and `unibench` read."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from affectgpt_r1.cli.predict import main
from affectgpt_r1.cli.unibench import main as unibench
from affectgpt_r1.data.collate import collate
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.layouts.manifest import read_manifest
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.types import Sampling

MEDIA = MediaSettings(num_frames=3, image_size=48, num_windows=2)
SAMPLING = Sampling(temperature=0.0, max_completion_length=12)


@pytest.fixture
def predictor(make_policy, monkeypatch) -> Predictor:
    torch.set_num_threads(1)
    predictor = Predictor(make_policy().eval(), MEDIA, SAMPLING, load_lexicon("bundled"))
    monkeypatch.setattr("affectgpt_r1.cli.predict.load_predictor", lambda *args, **options: predictor)
    return predictor


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_answers_are_those_of_the_clips_as_training_reads_them(predictor, tiny_data_root, tmp_path: Path, capsys):
    root = tiny_data_root(tmp_path / "data")
    main(["--data", str(root), "--names", "test.csv", "--output", str(tmp_path / "a.jsonl"), "--batch-size", "3"])
    written = rows_of(tmp_path / "a.jsonl")
    clips = ClipDataset(read_manifest(root, "test.csv"), root, MEDIA, seed=0)
    batch = collate([clips[SampleKey(index, 0)] for index in range(4)])
    assert [row["name"] for row in written] == list(batch.names)
    with torch.no_grad():
        rollout = predictor.policy.generate(predictor.policy.with_features(batch), 1, SAMPLING)
    assert [row["completion"] for row in written] == [texts[0] for texts in rollout.texts]
    assert "a.jsonl: 4 of 4 clips are answered" in capsys.readouterr().out


def test_confidence_is_fitted_to_the_labels_of_the_clips(
    predictor, tiny_data_root, tmp_path: Path, monkeypatch, capsys
):
    root, sampled = tiny_data_root(tmp_path / "data"), {"samples": 2, "labels": {"happy": 0.5}, "clusters": {}}
    sampled["clusters"] = {"wheel1": {"joy": 0.5}}
    monkeypatch.setattr(Predictor, "sampled_fractions", lambda _, batch: [sampled] * len(batch))
    policy = {"checkpoint": str(tmp_path / "best.ckpt"), "digest": "sha256:12", "lexicon": "bundled"}
    asked = replace(predictor, num_samples=2, provenance={"policy": policy})
    monkeypatch.setattr("affectgpt_r1.cli.predict.load_predictor", lambda *args, **options: asked)
    arguments = ["--data", str(root), "--names", "test.csv", "--output", str(tmp_path / "a.jsonl"), "--calibrate"]
    main(arguments)
    assert "expected calibration error: words 0.250, clusters 0.250" in capsys.readouterr().out  # right in 1 of 4
    assert json.loads((tmp_path / "best.calibration.json").read_text("utf-8"))["clips"] == 4
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--samples", "0"])
    assert "--calibrate needs --names FILE with labels of each clip" in capsys.readouterr().err


def test_what_is_said_comes_from_the_file_that_is_named(predictor, tiny_data_root, tmp_path: Path, monkeypatch):
    root, said = tiny_data_root(tmp_path / "data"), []
    embed = predictor.policy.embed_prompts
    monkeypatch.setattr(
        predictor.policy,
        "embed_prompts",
        lambda batch, **options: said.append(batch.subtitles) or embed(batch, **options),
    )
    names = pd.read_csv(root / "test.csv")["name"].tolist()
    pd.DataFrame({"name": names, "sentence": list("abcd")}).to_csv(root / "other.csv", index=False)
    for given in ("subtitle_chieng.csv:english", "other.csv:sentence", ""):
        main(["--data", str(root), "--names", "test.csv", "--output", str(tmp_path / "a.jsonl"), "--subtitles", given])
    assert said == [("line 8", "line 9", "line 10", "line 11"), ("a", "b", "c", "d"), ("", "", "", "")]


@pytest.fixture
def benchmark(tiny_data_root, tmp_path: Path) -> Path:
    """IEMOCAP and OV-MERD+ in their published folders, of two clips each, and one of another session."""
    data, root = tiny_data_root(tmp_path / "data"), tmp_path / "benchmark"
    sets = {
        "iemocap-process": (["Ses05F_a", "Ses05F_b", "Ses01F_c"], "subvideo-tgt/{}.avi", "subaudio/{}.wav"),
        "ovmerdplus-process": (["sample_x", "sample_y"], "video/{}.mp4", "audio/{}.wav"),
    }
    for folder, (names, video, audio) in sets.items():
        for number, name in enumerate(names):
            origin = f"sample_{number:02d}"
            for place, file in (
                (video.format(name), f"video/{origin}.mp4"),
                (audio.format(name), f"audio/{origin}.wav"),
                (f"openface_face/{name}.npy", f"openface_face/{origin}/{origin}.npy"),
            ):
                (root / folder / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / file, root / folder / place)
    iemocap, ovmerdplus = (root / folder for folder in sets)
    corpus = {name: {"emo": number, "val": 0.0} for number, name in enumerate(sets["iemocap-process"][0])}
    np.savez(iemocap / "label_4way.npz", whole_corpus=np.array(corpus, dtype=object))
    said = {"name": list(corpus), "english": ["No.", "Yes.", "Why?"]}
    pd.DataFrame(said).to_csv(iemocap / "transcription-engchi-polish.csv", index=False)
    names = sets["ovmerdplus-process"][0]
    pd.DataFrame({"name": names, "openset": ["sad", "happy"]}).to_csv(ovmerdplus / "ovlabel.csv", index=False)
    pd.DataFrame({"name": names, "sentence": ["I", "You"]}).to_csv(ovmerdplus / "subtitle_eng.csv", index=False)
    return root


@pytest.mark.parametrize("visual", ["face", "frame"])
def test_the_sets_of_the_benchmark_that_are_there_are_answered_and_scored(predictor, benchmark, tmp_path, visual):
    object.__setattr__(predictor, "media", replace(MEDIA, visual=visual))
    main(["--data", str(benchmark), "--output", str(tmp_path / "answers")])
    assert sorted(file.name for file in (tmp_path / "answers").iterdir()) == ["iemocap.jsonl", "ovmerdplus.jsonl"]
    assert [row["name"] for row in rows_of(tmp_path / "answers" / "iemocap.jsonl")] == ["Ses05F_a", "Ses05F_b"]
    unibench(["--predictions", str(tmp_path / "answers"), "--data", str(benchmark), "--json", str(tmp_path / "s.json")])
    assert set(json.loads((tmp_path / "s.json").read_text("utf-8"))["unibench"]["sets"]) == {"iemocap", "ovmerdplus"}


def test_a_clip_that_cannot_be_read_is_named_and_the_code_is_one(predictor, tiny_data_root, tmp_path: Path, capsys):
    root = tiny_data_root(tmp_path / "data")
    (root / "audio" / "sample_09.wav").write_bytes(b"no sound")
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(root), "--names", "test.csv", "--output", str(tmp_path / "a.jsonl")])
    assert stop.value.code == 1
    assert [row["name"] for row in rows_of(tmp_path / "a.jsonl")] == ["sample_08", "sample_10", "sample_11"]
    printed = capsys.readouterr().out
    assert "3 of 4 clips are answered" in printed
    assert "sample_09: " in printed


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--names", "none.csv", "--output", "OUT.jsonl"], r"none\.csv: no such file"),
        (["--names", "test.csv", "--output", "OUT.csv"], r"give a file that ends in \.jsonl"),
        (["--names", "test.csv", "--output", "OUT.jsonl", "--subtitles", "test.csv:said"], r"lacks the column said"),
        (["--output", "OUT"], r"holds none of mer2023-dataset-process, "),
        (["--sets", "meld", "--output", "OUT"], r"meld-process"),
        (["--sets", "mosi", "--output", "OUT"], r"--sets mosi: give some of mer2023, "),
        ([], r"--data needs --output"),
        (["clip.mp4", "--output", "OUT"], r"give files or folders of videos, or --data ROOT"),
        (["--faces", "centre", "--output", "OUT"], r"--faces is an option of videos"),
    ],
)
def test_mistakes_are_one_line_before_a_checkpoint_is_loaded(tiny_data_root, tmp_path, capsys, given, complaint):
    root = tiny_data_root(tmp_path / "data")
    arguments = [argument.replace("OUT", str(tmp_path / "OUT")) for argument in given]
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(root), "--checkpoint", str(tmp_path / "none.ckpt"), *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert re.search(complaint, error[0])
