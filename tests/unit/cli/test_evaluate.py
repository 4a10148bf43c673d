"""What the evaluation refuses before it answers a clip."""

from __future__ import annotations

import pytest

from affectgpt_r1.cli.evaluate import _check_targets
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import DataError


def rows(*labels: str) -> list[ManifestRow]:
    return [ManifestRow(f"clip_{index}", (label,)) for index, label in enumerate(labels)]


def test_targets_of_another_language_are_refused_before_clips_are_answered():
    lexicon = load_lexicon("bundled")
    with pytest.raises(
        DataError, match=r"split=test: no label of its 2 clips stands on a wheel of the bundled lexicon"
    ):
        _check_targets(rows("快乐", "neutral"), lexicon, "test")
    _check_targets(rows("快乐", "happy"), lexicon, "test")
