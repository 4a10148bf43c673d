import pytest

from affectgpt_r1.data.skipped import SkippedClips
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import SkippedClip


def test_the_run_fails_above_the_share_and_names_the_reasons():
    skipped = SkippedClips()
    skipped.raise_if_over(0.0)
    skipped.add([SkippedClip("a", "a.wav: empty"), SkippedClip("a", "a.wav: empty")], num_read=98)
    assert (skipped.count, skipped.total, skipped.share) == (2, 100, 0.02)
    skipped.raise_if_over(0.02)
    skipped.add([SkippedClip("b", "b.mp4: cut short")])
    assert skipped.rows() == [("a", "a.wav: empty", 2), ("b", "b.mp4: cut short", 1)]
    with pytest.raises(DataError, match=r"3 of 101 .*at most 2\.0%.*a\.wav: empty; b\.mp4: cut short"):
        skipped.raise_if_over(0.02)
