"""What was freed between blocks that live on is handed back, and only where a large block follows."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from affectgpt_r1.engine import fused_linear_logps as fused
from affectgpt_r1.engine.freed_memory import FROM_SYSTEM, return_freed_memory
from helpers.forked import run_processes

MIB = 2**20


def resident() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def free_between_blocks_that_live() -> None:
    del [torch.ones(8 * MIB // 4)][0]  # glibc then takes blocks of up to 8 MiB from its heap
    blocks = [torch.ones(MIB // 4) for _ in range(200)]
    live = blocks[::2]
    before = resident()
    del blocks
    gc.collect()
    assert before - resident() < 10 * MIB, "the heap keeps them"
    return_freed_memory()
    assert before - resident() > 90 * MIB
    assert all(bool((block == 1).all()) for block in live)


def test_freed_pages_go_back_to_the_system():
    assert run_processes([free_between_blocks_that_live], 60) == [0]


def test_a_system_without_glibc_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    return_freed_memory()


def ones(logps, rows):
    return torch.ones_like(logps)


@pytest.mark.parametrize("precomputed_grads", [ones, None])
@pytest.mark.parametrize(("rows", "calls"), [(FROM_SYSTEM // 16, 1), (FROM_SYSTEM // 16 - 1, 0)])
def test_it_is_done_before_a_large_gradient_alone(monkeypatch, rows, calls, precomputed_grads):
    done: list[None] = []
    monkeypatch.setattr(fused, "return_freed_memory", lambda: done.append(None))
    weight = torch.zeros(rows, 4).requires_grad_()
    states, ids = torch.ones(1, 4).requires_grad_(), torch.zeros(1, dtype=torch.long)
    fused.fused_linear_logps(states, weight, ids, precomputed_grads=precomputed_grads).logps.sum().backward()
    with torch.no_grad():
        fused.fused_linear_logps(states, weight, ids)
    assert len(done) == calls
