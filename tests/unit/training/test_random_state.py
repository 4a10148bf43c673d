"""Random states come back exactly, and pass through a safe checkpoint."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from affectgpt_r1.training.random_state import capture_random_state, derive_seed, restore_random_state


@pytest.fixture(autouse=True)
def _keep_random_state():
    state = capture_random_state()
    yield
    restore_random_state(state)


def draw() -> list[float]:
    return [
        torch.rand(()).item(),
        torch.randn(()).item(),
        float(np.random.rand()),
        float(np.random.randn()),
        random.random(),
        random.gauss(0, 1),
    ]


def test_restored_generators_draw_the_same_numbers():
    draw()  # an odd number of normal draws leaves numpy and Python a cached one
    state = capture_random_state()
    first = [draw() for _ in range(3)]
    assert [draw() for _ in range(3)] != first
    restore_random_state(state)
    assert [draw() for _ in range(3)] == first


def test_states_survive_a_file_that_may_hold_no_code(tmp_path):
    draw()
    torch.save(capture_random_state(), tmp_path / "state.pt")
    first = draw()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first


def test_capturing_draws_nothing():
    state = capture_random_state()
    first = draw()
    restore_random_state(state)
    capture_random_state()
    assert draw() == first


def test_seeds_depend_on_every_part_and_its_place():
    seeds = {
        derive_seed(*parts) for parts in [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0), (10, 0, 0)]
    }
    assert len(seeds) == 6


def test_seeds_fit_torch():
    assert all(0 <= derive_seed(run, epoch) < 2**63 for run in range(20) for epoch in range(20))
    torch.Generator().manual_seed(max(derive_seed(step) for step in range(100)))


def test_a_seed_is_the_same_on_every_machine():
    digest = hashlib.blake2b(b"7,0,3", digest_size=8).hexdigest()
    assert derive_seed(7, 0, 3) == int(digest, 16) // 2


class Devices:
    """Stands in for ``torch.cuda`` with some devices, of which this process uses one."""

    def __init__(self, number: int, own: int) -> None:
        self.states = [torch.full((4,), device, dtype=torch.uint8) for device in range(number)]
        self.own = own

    def is_initialized(self) -> bool:
        return bool(self.states)

    def current_device(self) -> int:
        return self.own

    def get_rng_state(self) -> torch.Tensor:
        return self.states[self.own].clone()

    def set_rng_state(self, state: torch.Tensor) -> None:
        self.states[self.own] = state


@pytest.fixture
def see(monkeypatch):
    """``see(number, own)``: from now on this process sees ``number`` GPUs and uses one of them."""

    def devices(number: int, own: int = 0) -> Devices:
        seen = Devices(number, own)
        for name in ("is_initialized", "current_device", "get_rng_state", "set_rng_state"):
            monkeypatch.setattr(torch.cuda, name, getattr(seen, name))
        return seen

    return devices


def test_a_run_resumes_where_fewer_gpus_are_visible(see):
    see(4, own=2)
    state = capture_random_state()
    assert [one.tolist() for one in state["cuda"]] == [[2] * 4]  # the own device's only
    left = see(1)
    restore_random_state(state)
    assert left.states[0].tolist() == [2] * 4


def test_other_processes_gpus_are_left_alone(see):
    seen = see(2, own=1)
    restore_random_state({**capture_random_state(), "cuda": [torch.full((4,), 9, dtype=torch.uint8)]})
    assert [one.tolist() for one in seen.states] == [[0] * 4, [9] * 4]


def test_a_state_of_all_gpus_from_an_older_checkpoint(see):
    seen = see(2, own=1)
    old = [torch.full((4,), 7 + device, dtype=torch.uint8) for device in range(2)]
    restore_random_state({**capture_random_state(), "cuda": old})
    assert [one.tolist() for one in seen.states] == [[0] * 4, [8] * 4]


def test_a_gpu_run_resumes_on_a_cpu_and_the_other_way_round(see):
    see(1)
    on_gpu = capture_random_state()
    see(0)
    restore_random_state(on_gpu)
    on_cpu = capture_random_state()
    assert on_cpu["cuda"] == []
    seen = see(1)
    restore_random_state(on_cpu)
    assert seen.states[0].tolist() == [0] * 4
