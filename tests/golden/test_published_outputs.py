"""Answers that AffectGPT and seven other models published, scored as the official code scored them."""

import json
import os
from functools import partial
from pathlib import Path

import pytest

from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.evaluation.merge_files import merge_files
from affectgpt_r1.evaluation.score_files import score_files
from affectgpt_r1.evaluation.score_folders import score_folders
from affectgpt_r1.metrics.functional.wheel_f1 import score_table
from affectgpt_r1.metrics.prediction_files import align, read_named_sets

FIXTURES = Path(os.environ.get("AFFECTGPT_FIXTURES", ""), "published_outputs")
WHEELS = "AFFECTGPT_WHEELS" in os.environ
pytestmark = pytest.mark.skipif(
    not (FIXTURES.is_dir() and WHEELS), reason="AFFECTGPT_FIXTURES or AFFECTGPT_WHEELS does not name a folder"
)
NAMES = {"iemocapfour": "iemocap"}
PAPER = {"mer2023": 78.54, "meld": 55.65, "cmumosi": 81.30, "cmumosei": 80.90, "sims": 88.49}
"""Sets whose best epoch is among the published ones."""


@pytest.fixture(scope="module")
def expected():
    return json.loads((FIXTURES / "expected.json").read_text())


def test_mer_unibench_of_four_epochs(expected):
    report = score_folders(FIXTURES / "unibench", FIXTURES / "labels", lexicon="mer2025")
    summary = report["unibench"]
    errors = [
        abs(
            summary["checkpoints"]["published"][checkpoint][NAMES.get(name, name)]
            - scores.get("hit", scores.get("waf"))
        )
        for name, epochs in expected["unibench_lexicon_mer2025"].items()
        for epoch, scores in epochs.items()
        for checkpoint in summary["checkpoints"]["names"]
        if f"_{epoch}_" in checkpoint
    ]
    assert len(errors) == 28
    assert max(errors) < 1e-9
    assert {name: round(100 * summary["sets"][name]["published"], 2) for name in PAPER} == PAPER
    assert [note.split()[0] for note in report["notes"]] == ["mer2024", "ovmerdplus"]
    choice = summary["choice"]
    best = {name: row["best"]["published"] for name, row in choice["sets"].items()}
    assert best == {name: pytest.approx(row["published"], abs=1e-12) for name, row in summary["sets"].items()}
    # Choosing on test clips is worth 6 points on MER2023 and 0.9 on the mean of these seven sets.
    honest = choice["sets"]["mer2023"]["honest"]
    assert (honest["checkpoint"], round(100 * honest["published"], 2)) == ("checkpoint_000030_loss_0.602", 72.55)
    optimism = [choice["mean"]["optimism"], *choice["mean"]["optimism_interval"]]
    assert [round(100 * value, 2) for value in optimism] == [0.87, 0.09, 1.59]


@pytest.mark.parametrize("lexicon", ["mer2025", "mer2026"])
def test_seven_models_on_ov_merd(expected, lexicon):
    words = load_lexicon(lexicon)
    extract = partial(extract_labels, lexicon=words)
    targets = read_named_sets(FIXTURES / "mer2024" / "check-openset.csv", extract)
    errors = {}
    for file, score in expected["ov_merd_mean_level1_f1"][lexicon].items():
        predictions = read_named_sets(FIXTURES / "ov_merd" / file, extract)
        answered, wanted = align(predictions, targets, subset=True)
        errors[file] = abs(score_table(answered.labels, wanted.labels, words)["mean_level1"]["f1"] - score)
    assert len(errors) == 21
    assert max(errors.values()) < 1e-9


def test_three_of_them_merged(expected, tmp_path):
    """By vote they do better than any alone: 60.28 against 52.53, 44.53 and 42.81."""
    words, systems = load_lexicon("mer2025"), ("SALMONN", "Video-ChatGPT", "Chat-UniVi")
    extract = partial(extract_labels, lexicon=words)
    targets = read_named_sets(FIXTURES / "mer2024" / "check-openset.csv", extract)
    files = [f"{system}/output-reason-7b-subtitle-eng-openset.npz" for system in systems]
    found = {}
    for rule in ("union", "vote", "cap"):
        merge_files([FIXTURES / "ov_merd" / file for file in files], tmp_path / "m.jsonl", rule=rule, lexicon="mer2025")
        answered, wanted = align(read_named_sets(tmp_path / "m.jsonl", extract), targets, subset=True)
        found[rule] = round(100 * score_table(answered.labels, wanted.labels, words)["mean_level1"]["f1"], 2)
    assert found == {"union": 58.86, "vote": 60.28, "cap": 56.28}
    alone = [expected["ov_merd_mean_level1_f1"]["mer2025"][file] for file in files]
    assert [round(100 * score, 2) for score in alone] == [42.81, 44.53, 52.53]


def test_mer2024s_example(expected):
    folder = FIXTURES / "mer2024"
    example = expected["mer2024_example"]
    scored = score_files(
        folder / "predict-openset.csv", folder / "check-openset.csv", groupings=folder / "openset-synonym.zip"
    )
    scores = scored.report["mer2024"]["groupings"]
    assert scores == {key: pytest.approx(example[key], abs=5e-8) for key in ("accuracy_s", "recall_s", "mean")}
