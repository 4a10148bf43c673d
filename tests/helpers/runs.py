"""What tests ask of runs: checkpoints, logged values, MLflow's records; and signals to them."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from affectgpt_r1.tracking.database import ensure_database
from affectgpt_r1.training.module import AffectModule


def checkpoint_of(folder: Path, name: str = "last") -> dict[str, Any]:
    """Read a run's checkpoint."""
    content: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return content


def logged_steps(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a run's ``metrics.csv``, the first process's alone; an empty cell is an empty text."""
    (file,) = folder.glob("csv/*/metrics.csv")
    with file.open(encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def tracked_runs(outputs: Path, experiment: str) -> tuple[MlflowClient, list[Run]]:
    """Return a client of the outputs folder's MLflow, and the runs of an experiment."""
    client = MlflowClient(ensure_database(outputs))
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def assert_equal_weights(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Compare the weights of two checkpoints bit by bit."""
    assert expected["state_dict"].keys() == found["state_dict"].keys()
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(tensor, found["state_dict"][name]), name


def assert_equal_checkpoints(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Compare step, place in the data, weights and optimizer state of two checkpoints bit by bit."""
    assert expected["global_step"] == found["global_step"]
    assert expected["position"] == found["position"]
    assert_equal_weights(expected, found)
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (expected, found))
    for key, moments in first.items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, second[key][name]), (key, name)


def signal_at_batch(is_due: Callable[[AffectModule], bool], number: int = signal.SIGKILL) -> None:
    """Send this process a signal whenever a training batch begins and ``is_due(module)``; for forked children only."""
    started = AffectModule.on_train_batch_start

    def start_or_stop(module: AffectModule, batch: Any, batch_idx: int) -> None:
        if is_due(module):
            os.kill(os.getpid(), number)
        started(module, batch, batch_idx)

    AffectModule.on_train_batch_start = start_or_stop  # type: ignore[method-assign]
