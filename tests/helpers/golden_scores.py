"""Lexicons whose scores are known: the two published ones, where they are at hand, and an invented one that ships."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from affectgpt_r1.emotion.lexicon import PUBLISHED_VERSIONS
from helpers.slow_wheel_scorer import GROUPINGS

SYNTHETIC = Path(__file__).parents[1] / "fixtures" / "emotion_wheel"
VERSIONS = (*PUBLISHED_VERSIONS, "synthetic")


def lexicon_spec(version: str) -> str:
    """Return what ``load_lexicon`` and ``--lexicon`` take."""
    return str(SYNTHETIC) if version == "synthetic" else version


def golden_scores(version: str) -> dict[str, Any]:
    """Return ``forms`` (their number), ``samples``, ``scores`` and ``words``; skip the test where they are not here."""
    if version == "synthetic":
        content = json.loads((SYNTHETIC / "expected.json").read_text("utf-8"))
        words = {word: {**dict.fromkeys(GROUPINGS), **groups} for word, groups in content["words"].items()}
        return {**content, "words": words}
    wheels = os.environ.get("AFFECTGPT_WHEELS")
    if not wheels:
        pytest.skip("AFFECTGPT_WHEELS does not name the published lexicons")
    root = Path(os.environ.get("AFFECTGPT_FIXTURES") or Path(wheels).parent)
    path = root / "fixtures" / f"ew_parity_{version}.json"
    if not path.is_file():
        pytest.skip(f"no published scores at {path} (AFFECTGPT_FIXTURES names the folder that holds fixtures/)")
    published: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return published
