"""Two gloo processes: gathers, averages, and leaving the group; and what a single process gets without one."""

from __future__ import annotations

import torch
from torch import distributed, nn

from affectgpt_r1.distributed.collectives import (
    all_gather_objects,
    average_gradients,
    destroy_process_group_on_exit,
    gather_objects_to_rank_zero,
)
from helpers.processes import join_gloo, run_two


def share(rank, folder):
    join_gloo(rank, folder)
    with destroy_process_group_on_exit():
        found = {
            "all": all_gather_objects([None, "one"][rank]),
            "first": gather_objects_to_rank_zero({"rank": rank}),
        }
    assert not distributed.is_initialized()
    torch.save(found, folder / f"{rank}.pt")


def test_two_processes(tmp_path):
    run_two(share, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for found in (first, second):
        assert found["all"] == [None, "one"]
    assert first["first"] == [{"rank": 0}, {"rank": 1}]
    assert second["first"] == []


def test_a_process_alone_changes_nothing():
    assert gather_objects_to_rank_zero("own") == ["own"]
    with destroy_process_group_on_exit():
        pass


def average(rank, folder):
    """Of three weights one process uses two, the other one."""
    join_gloo(rank, folder)
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 0:
        weights[1].grad = torch.tensor([4.0, -4.0])
    with destroy_process_group_on_exit():
        average_gradients(weights)
    torch.save([one.grad.tolist() for one in weights], folder / f"{rank}.pt")


def test_gradients_are_averaged_where_a_process_has_none(tmp_path):
    run_two(average, tmp_path)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == [[1.5, 3.0], [2.0, -2.0], [0.0, 0.0]]


def test_a_process_alone_keeps_its_gradients():
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    used.grad = torch.tensor([1.0, 2.0])
    average_gradients([used, unused])
    assert (used.grad.tolist(), unused.grad.tolist()) == ([1.0, 2.0], [0.0])
