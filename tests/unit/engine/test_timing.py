from __future__ import annotations

import pytest

from affectgpt_r1.engine.timing import add_seconds, peak_memory_mib, phase, take_phases


def test_phases_add_up_until_they_are_taken():
    take_phases()
    add_seconds("reward", 1.5)
    add_seconds("reward", 0.5)
    with phase("decode"):
        pass
    with pytest.raises(ValueError, match="inside"), phase("forward"):
        raise ValueError("inside")
    taken = take_phases()
    assert taken["reward"] == 2.0
    assert list(taken) == ["reward", "decode", "forward"]
    assert 0 <= taken["decode"] < 60
    assert take_phases() == {}


def test_peak_memory_is_that_of_a_python_process():
    assert 20 < peak_memory_mib() < 1e6
