import pytest

from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import UnreadableClip


def test_the_run_fails_above_the_share_and_names_the_reasons():
    unreadable = UnreadableClips()
    unreadable.raise_if_over(0.0)
    unreadable.add([UnreadableClip("a", "a.wav: empty"), UnreadableClip("a", "a.wav: empty")], num_read=98)
    assert (unreadable.count, unreadable.total) == (2, 100)
    unreadable.raise_if_over(0.02)
    unreadable.add([UnreadableClip("b", "b.mp4: cut short")])
    assert unreadable.rows() == [("a", "a.wav: empty", 2), ("b", "b.mp4: cut short", 1)]
    with pytest.raises(DataError, match=r"3 of 101 .*at most 2\.0%.*a\.wav: empty; b\.mp4: cut short"):
        unreadable.raise_if_over(0.02)


def test_an_account_continues_from_its_state():
    first, second = UnreadableClips(), UnreadableClips()
    first.add([UnreadableClip("a", "a.wav: empty")], num_read=9)
    second.load_state_dict(first.state_dict())
    second.add([UnreadableClip("a", "a.wav: empty"), UnreadableClip("b", "b.mp4: cut short")])
    assert (second.count, second.total) == (3, 12)
    assert second.rows() == [("a", "a.wav: empty", 2), ("b", "b.mp4: cut short", 1)]
    assert first.state_dict() == {"total": 10, "times": {"a": 1}, "reason": {"a": "a.wav: empty"}}
