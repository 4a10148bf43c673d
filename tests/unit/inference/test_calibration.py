"""Confidence is fitted to labelled clips, stored beside the checkpoint, and applied to that checkpoint alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import CheckpointError, DataError
from affectgpt_r1.inference.calibration import (
    Curve,
    Judged,
    apply_calibration,
    calibration_error,
    calibration_file,
    compare_with_labels,
    fit_curve,
    judge,
    read_calibration,
)

SURE = {"samples": 4, "labels": {"happy": 1.0, "sad": 0.25}, "clusters": {"wheel1": {"joy": 1.0}}}
CURVES = {"labels": Curve(1.0, 0.0), "clusters": Curve(0.0, 0.0)}


def test_a_fitted_curve_removes_the_error_on_other_clips():
    random = np.random.default_rng(0)
    chance = random.uniform(0.05, 0.7, 6000)
    counts = random.binomial(16, np.clip(1.6 * chance - 0.1, 0.0, 1.0))  # samples agree more than people do
    right = (random.random(6000) < chance).astype(float)
    curve = fit_curve(Judged(counts[:3000] / 16, 16, right[:3000]))
    raw = calibration_error(counts[3000:] / 16, right[3000:])
    found = calibration_error(curve(counts[3000:] / 16, 16), right[3000:])
    assert raw > 0.12
    assert found < 0.05


def test_a_curve_of_one_number_is_the_fraction_that_was_right():
    curve = fit_curve(Judged(np.full(20, 0.5), 16, np.array([1.0] * 5 + [0.0] * 15)))
    assert curve(np.array([0.5]), 16)[0] == pytest.approx((5 * 6 / 7 + 15 / 17) / 20, abs=1e-6)


def test_applied_curves_keep_words_and_order():
    assert apply_calibration(SURE, None) == SURE | {"calibrated": False}
    assert apply_calibration(SURE, CURVES) == {
        "samples": 4,
        "labels": {"happy": 0.9, "sad": 0.3},  # 4.5 of 5, 1.5 of 5
        "clusters": {"wheel1": {"joy": 0.5}},
        "calibrated": True,
    }


def test_what_is_right_is_what_people_said_by_word_and_by_cluster():
    found = judge([{"name": "a", "confidence": SURE}], {"a": (" Happy", "angry")}, load_lexicon("bundled"))
    assert found["labels"].right.tolist() == [1.0, 0.0]
    assert (found["clusters"].fractions.tolist(), found["clusters"].right.tolist()) == ([1.0], [1.0])
    with pytest.raises(DataError, match="no answer names a word"):
        judge([{"name": "a", "confidence": {**SURE, "clusters": {}}}], {"a": ("happy",)}, load_lexicon("bundled"))


def test_curves_are_stored_beside_the_checkpoint_and_are_of_it_alone(tmp_path: Path):
    answers, said = tmp_path / "answers.jsonl", []
    answers.write_text(json.dumps({"name": "a", "confidence": SURE}) + "\n", "utf-8")
    policy = {"checkpoint": str(tmp_path / "best.ckpt"), "digest": "sha256:12", "lexicon": "bundled", "version": "1"}
    assert read_calibration(policy) == (None, "")
    arguments = answers, {"a": ("happy",)}, load_lexicon("bundled"), policy
    compare_with_labels(*arguments, fit=True, say=said.append)
    path = calibration_file(Path(policy["checkpoint"]))
    assert path.name == "best.calibration.json"
    assert said == [
        "expected calibration error: words 0.125, clusters 0.000",
        f"{path}: fitted to 1 clips; predict uses it from now on",
    ]
    curves, why_not = read_calibration(policy)
    assert curves is not None
    assert not why_not
    assert set(curves) == {"labels", "clusters"}
    for key in ("digest", "lexicon"):
        why = f"{path} is of another {key}: confidence is not calibrated; predict --calibrate fits again"
        assert read_calibration(policy | {key: "other"}) == (None, why)
    endless = path.read_text("utf-8").replace('"slope": ', '"slope": 1e999, "was": ')
    for damage in ("{", "[]", json.dumps({**policy, "labels": {"slope": 1}}), endless):
        path.write_text(damage, "utf-8")
        with pytest.raises(CheckpointError, match=r"best.calibration.json: cannot be read .*; delete it, or fit it"):
            read_calibration(policy)
