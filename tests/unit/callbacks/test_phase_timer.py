"""The phase timer: sums by phase, and that it waits for an accelerator only while it is on."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from affectgpt_r1.callbacks.step_timer import PhaseTimer, peak_memory_mib


def test_phases_add_up_until_they_are_taken():
    timer = PhaseTimer(clock=count().__next__)  # one second per look
    for _ in range(2):
        with timer.phase("decode"):
            pass
    with pytest.raises(ValueError, match="inside"), timer.phase("forward"):
        raise ValueError("inside")
    timer.add("reward", 1.5)
    assert timer.take() == {"decode": 2.0, "forward": 1.0, "reward": 1.5}
    assert timer.take() == {}


def test_a_timer_that_is_off_adds_nothing():
    timer = PhaseTimer(enabled=False)
    with timer.phase("decode"):
        timer.add("reward", 1.5)
    assert timer.take() == {}


@pytest.mark.parametrize("enabled", [False, True])
def test_an_accelerator_is_waited_for_only_while_timing(monkeypatch, enabled):
    waits = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    with PhaseTimer(enabled=enabled).phase("decode"):
        pass
    assert len(waits) == (2 if enabled else 0)


def test_peak_memory_is_that_of_a_python_process():
    assert 20 < peak_memory_mib() < 1e6
