"""`affectgpt-r1 score` on samples whose scores are known: every score, from every file format."""

import csv
import json

import pytest

import affectgpt_r1.cli.score
from helpers.golden_scores import VERSIONS, golden_scores, lexicon_spec


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


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".npz"])
def test_every_score(version, suffix, tmp_path):
    golden = golden_scores(version)
    samples = golden["samples"]
    # A list of words that holds one in quotes does not fit into a CSV cell; JSONL keeps it.
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
        lexicon_spec(version),
        "--json",
        tmp_path / "s.json",
    ]
    affectgpt_r1.cli.score.main(list(map(str, arguments)))

    scores = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert scores.keys() == golden["scores"].keys()
    for name, expected in golden["scores"].items():
        assert scores[name] == pytest.approx(expected, abs=1e-12, rel=0), name
