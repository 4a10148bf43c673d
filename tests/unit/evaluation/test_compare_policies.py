"""What the evaluation refuses before it answers a clip."""

from __future__ import annotations

import pytest

from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.compare_policies import check_targets


def rows(*labels: str) -> list[ManifestRow]:
    return [ManifestRow(f"clip_{index}", (label,)) for index, label in enumerate(labels)]


def test_targets_of_another_language_are_refused_before_clips_are_answered():
    lexicon = load_lexicon("bundled")
    with pytest.raises(DataError, match=r"split=test: no label of its 2 clips is on a wheel of the bundled lexicon"):
        check_targets(rows("快乐", "neutral"), lexicon, "test")
    check_targets(rows("快乐", "happy"), lexicon, "test")
