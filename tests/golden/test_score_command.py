"""`affectgpt-r1 score` on the published scorer's own samples: every score, from every file format."""

import csv
import json
import os
from pathlib import Path

import pytest

import affectgpt_r1.cli.score


def _fixture(version):
    wheels = os.environ.get("AFFECTGPT_WHEELS")
    if not wheels:
        pytest.skip("AFFECTGPT_WHEELS does not name the published lexicons")
    root = Path(os.environ.get("AFFECTGPT_FIXTURES") or Path(wheels).parent)
    path = root / "fixtures" / f"ew_parity_{version}.json"
    if not path.is_file():
        pytest.skip(f"no published scores at {path} (AFFECTGPT_FIXTURES names the folder that holds fixtures/)")
    return json.loads(path.read_text(encoding="utf-8"))


def _write(samples, key, path):
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "openset"])
            writer.writerows([sample["name"], sample[key]] for sample in samples)
    else:
        lines = [json.dumps({"name": sample["name"], "openset": sample[key]}) for sample in samples]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("version", ["mer2025", "mer2026"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".npz"])
def test_every_score(version, suffix, tmp_path):
    fixture = _fixture(version)
    samples = fixture["samples"]
    # A list of words that holds one in quotes has no place in a CSV cell; JSONL keeps it.
    targets = _write(samples[::-1], "target", tmp_path / "targets.jsonl")
    if suffix == ".npz":
        source = _write(samples, "prediction", tmp_path / "predictions.jsonl")
        predictions = tmp_path / "team-openset.npz"
        affectgpt_r1.cli.score.main(["--predictions", str(source), "--submission", str(predictions)])
    else:
        predictions = _write(samples, "prediction", tmp_path / f"predictions{suffix}")

    arguments = [
        "--predictions",
        predictions,
        "--targets",
        targets,
        "--lexicon",
        version,
        "--json",
        tmp_path / "s.json",
    ]
    affectgpt_r1.cli.score.main(list(map(str, arguments)))

    scores = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert scores.keys() == fixture["scores"].keys()
    for name, expected in fixture["scores"].items():
        assert scores[name] == pytest.approx(expected, abs=1e-12, rel=0), name
