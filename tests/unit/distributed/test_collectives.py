"""Two gloo processes: gathers, and destroying the group; and a single process without one."""

from __future__ import annotations

import torch
from torch import distributed

from affectgpt_r1.distributed.collectives import (
    all_gather_objects,
    destroy_process_group_on_exit,
    gather_objects_to_rank_zero,
)
from helpers.processes import join_gloo, run_two


def gather(rank, folder):
    join_gloo(rank, folder)
    with destroy_process_group_on_exit():
        values = {
            "all": all_gather_objects([None, "one"][rank]),
            "first": gather_objects_to_rank_zero({"rank": rank}),
        }
    assert not distributed.is_initialized()
    torch.save(values, folder / f"{rank}.pt")


def test_two_processes(tmp_path):
    run_two(gather, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for values in (first, second):
        assert values["all"] == [None, "one"]
    assert first["first"] == [{"rank": 0}, {"rank": 1}]
    assert second["first"] == []


def test_a_process_alone_changes_nothing():
    assert gather_objects_to_rank_zero("own") == ["own"]
    with destroy_process_group_on_exit():
        pass
