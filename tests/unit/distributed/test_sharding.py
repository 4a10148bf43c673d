"""Full tensors of two gloo ranks; accumulated gradients that resume under another strategy."""

from __future__ import annotations

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from affectgpt_r1.distributed.collectives import destroy_process_group_on_exit
from affectgpt_r1.distributed.sharding import accumulated_gradients, full_tensor
from helpers.processes import join_gloo, run_two

TREE = {
    "odd": torch.arange(15.0).view(5, 3),
    "nested": [torch.arange(4.0), ({"one row": torch.tensor([[7.0, 8.0]])}, torch.arange(6).view(3, 2, 1))],
    "full": torch.tensor(3.0),
    "plain": "text",
}

OWN = [{"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0])}, {"a": torch.tensor([3.0, 6.0])}]
MEAN = {"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([2.0])}


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(actual[name], gradient), name


def test_full_weights_resume_with_each_ranks_own():
    for rank in (0, 1):
        assert_equal(accumulated_gradients(OWN, rank, sharded=False), OWN[rank])


def test_sharded_weights_resume_with_the_mean():
    """One process's batches left ``b`` out: there its gradient is 0."""
    for rank in (0, 1):
        assert_equal(accumulated_gradients(OWN, rank, sharded=True), MEAN)


def test_a_stored_mean_stays_it():
    for rank in (0, 1):
        for sharded in (True, False):
            assert_equal(accumulated_gradients([MEAN, None], rank, sharded=sharded), MEAN)
    assert accumulated_gradients([{}, None], 1, sharded=True) == {}


def gather(rank, folder):
    join_gloo(rank, folder)
    with destroy_process_group_on_exit():
        mesh = init_device_mesh("cpu", (2,))
        tree = {
            **TREE,
            "odd": distribute_tensor(TREE["odd"], mesh, [Shard(0)]),
            "nested": [
                distribute_tensor(TREE["nested"][0], mesh, [Shard(0)]),
                tuple(
                    {"one row": distribute_tensor(item["one row"], mesh, [Shard(0)])}
                    if isinstance(item, dict)
                    else distribute_tensor(item, mesh, [Shard(0)])
                    for item in TREE["nested"][1]
                ),
            ],
            "sum": DTensor.from_local(torch.tensor([1.0 + rank]), mesh, [Partial()]),
        }
        calls, gather_into = [], distributed.all_gather_into_tensor
        distributed.all_gather_into_tensor = lambda *given, **options: (calls.append(1), gather_into(*given, **options))
        actual = full_tensor(tree)
        distributed.all_gather_into_tensor = gather_into
    torch.save({**actual, "calls": len(calls)}, folder / f"{rank}.pt")


def test_full_tensors_are_gathered_together(tmp_path):
    """Rows of 3 + 2, 2 + 2, 1 + 0 and 2 + 1; two data types, two operations."""
    run_two(gather, tmp_path)
    for rank in (0, 1):
        actual = torch.load(tmp_path / f"{rank}.pt")
        assert actual["calls"] == 2
        assert torch.equal(actual["sum"], torch.tensor([3.0]))
        assert torch.equal(actual["odd"], TREE["odd"])
        (first, (named, last)) = actual["nested"]
        assert torch.equal(first, TREE["nested"][0])
        assert torch.equal(named["one row"], TREE["nested"][1][0]["one row"])
        assert torch.equal(last, TREE["nested"][1][1])
        assert (actual["full"], actual["plain"]) == (TREE["full"], "text")
