"""Pooled logs of unequal batches and processes are those of one batch that holds everything."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.distributed.collectives import destroy_process_group_on_exit
from affectgpt_r1.training.log_values import (
    as_floats,
    extreme,
    log_state,
    logs_from_state,
    mean_of,
    pooled,
    pooled_over_ranks,
    std_of,
)
from affectgpt_r1.types import LogValue
from helpers.processes import join_gloo, run_two

NAN = math.nan
CPU = torch.device("cpu")
REWARDS = ([1.0, NAN, 3.0, 3.5, 2.0], [-7.0])
UNEQUAL = [torch.tensor(values) for values in REWARDS]


def described(values: torch.Tensor) -> dict[str, LogValue]:
    logs = {"mean": mean_of(values), "std": std_of(values)}
    logs |= {"min": extreme("min", values[~values.isnan()]), "max": extreme("max", values[~values.isnan()])}
    return as_floats(logs | {"count": LogValue("sum", float(len(values)))})


def numbers(logs) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


def test_unequal_batches_are_pooled_as_one():
    """A mean of means would be (2.375 - 7) / 2."""
    found = numbers(pooled(map(described, UNEQUAL)))
    known = torch.tensor([1.0, 3.0, 3.5, 2.0, -7.0], dtype=torch.float64)
    assert found["mean"] == pytest.approx(0.5, abs=1e-12)
    assert found["std"] == pytest.approx(known.std().item(), abs=1e-12)
    assert (found["min"], found["max"], found["count"]) == (-7.0, 3.5, 6.0)


@given(st.lists(st.lists(st.floats(-5, 5), max_size=4), min_size=1, max_size=4))
def test_any_split_gives_the_whole(parts):
    tensors = [torch.tensor(part, dtype=torch.float64) for part in parts]
    found, full = numbers(pooled(map(described, tensors))), numbers(described(torch.cat(tensors)))
    assert found == pytest.approx(full, abs=1e-9, nan_ok=True)


def test_deviation_of_the_known_values():
    assert float(std_of(torch.tensor([1.0, NAN, 3.0]))) == pytest.approx(math.sqrt(2))
    assert float(std_of(torch.tensor([NAN, 3.0]))) == float(std_of(torch.tensor([NAN]))) == 0


def test_what_measured_nothing_does_not_count_and_a_broken_number_does():
    nothing, something = mean_of(torch.tensor([NAN])), mean_of(torch.tensor([4.0]))
    assert math.isnan(float(pooled([{"a": nothing}, {"a": nothing}])["a"]))
    assert float(pooled([{"a": nothing}, {"a": something}, {"a": nothing}])["a"]) == 4.0
    assert float(pooled([{"a": extreme("min", torch.tensor([]))}, {"a": LogValue("min", 3.0)}])["a"]) == 3.0
    assert math.isnan(float(pooled([as_floats({"a": torch.tensor(NAN)}), {"a": something}])["a"]))
    assert float(pooled([{"a": LogValue("mean", math.inf)}, {"a": something}])["a"]) == math.inf


def test_tensors_become_numbers_and_plain_ones_means_of_weight_one():
    found = as_floats({"a": torch.tensor(2), "b": 0.5, "c": LogValue("mean", torch.tensor(3.0), torch.tensor(7.0))})
    assert found == {"a": LogValue("mean", 2.0), "b": LogValue("mean", 0.5), "c": LogValue("mean", 3.0, 7.0)}


def test_values_survive_a_file_that_may_hold_no_code(tmp_path):
    logs = described(UNEQUAL[0])
    torch.save(log_state(logs), tmp_path / "logs.pt")
    assert logs_from_state(torch.load(tmp_path / "logs.pt", weights_only=True)) == logs
    assert logs_from_state({"reward": 0.5}) == {"reward": LogValue("mean", 0.5)}  # of an older rollout buffer


def share(rank, folder):
    join_gloo(rank, folder)
    with destroy_process_group_on_exit():
        torch.save(numbers(pooled_over_ranks(described(UNEQUAL[rank]), CPU)), folder / f"{rank}.pt")


def test_two_processes_with_unequally_many_values(tmp_path):
    run_two(share, tmp_path)
    full = pytest.approx(numbers(pooled(map(described, UNEQUAL))), abs=1e-12)
    assert torch.load(tmp_path / "0.pt") == torch.load(tmp_path / "1.pt") == full
