"""Pool logged values over the micro-batches of an optimizer step and over processes.

A mean of means is wrong where batches differ in tokens or completions, so each value carries its weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather, world_size
from affectgpt_r1.types import LogValue

if TYPE_CHECKING:
    import lightning as L  # slow to load, and `predict` needs this module without it

_SYSTEM = "system/"  # times and memory, which MLflow shows on a page of their own


def train_log_name(name: str) -> str:
    """Return the name under which a training step's value is logged: ``train/<name>``, but for times and memory."""
    return name if name.startswith(_SYSTEM) else f"train/{name}"


def show_callbacks(trainer: L.Trainer, values: Mapping[str, LogValue | Tensor]) -> dict[str, float]:
    """Let callbacks see an optimizer step's values, and return them under the names that loggers get."""
    # Not self.log, which makes a torchmetrics object of every value at every step: a twelfth of the demo's step.
    logs = {train_log_name(name): float(value) for name, value in values.items()}
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in logs.items()})
    return logs


def log_step(trainer: L.Trainer, values: Mapping[str, float]) -> None:
    """Give an optimizer step's values to the loggers, every ``log_every_n_steps``."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning declares it nowhere; 0: never
    if every and (trainer.global_step % every == 0 or trainer.should_stop):
        for logger in trainer.loggers:  # steps are counted from 0, as Lightning does
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step - 1)
            logger.save()


def mean_of(values: Tensor, *, empty: float = math.nan) -> LogValue:
    """Return the mean of the values that are not NaN; ``empty`` where there is none."""
    known = values[~values.isnan()].double()
    return LogValue("mean", known.mean().item() if len(known) else empty, float(len(known)))


def std_of(values: Tensor) -> LogValue:
    """Return the unbiased standard deviation of the values that are not NaN."""
    known = values[~values.isnan()].double()
    if not len(known):
        return LogValue("std", 0.0, 0.0)
    return LogValue("std", known.mean().item(), float(len(known)), (known - known.mean()).square().sum().item())


def extreme(reduction: Literal["min", "max"], values: Tensor) -> LogValue:
    """Return the smallest or largest value; 0 where there is none."""
    if not values.numel():
        return LogValue(reduction, 0.0, 0.0)
    return LogValue(reduction, (values.amin() if reduction == "min" else values.amax()).detach())


def as_floats(logs: Mapping[str, LogValue | Tensor | float]) -> dict[str, LogValue]:
    """Return the values as Python numbers; a plain number becomes a mean of weight 1."""
    # One stack and one copy: fetched singly, each value would wait for the accelerator.
    values = {name: value if isinstance(value, LogValue) else LogValue("mean", value) for name, value in logs.items()}
    parts = [part for log in values.values() for part in (log.value, log.weight, log.squares)]
    tensors = [part.detach().float() for part in parts if isinstance(part, Tensor)]
    fetched = iter(torch.stack(tensors).tolist() if tensors else [])
    numbers = iter([float(next(fetched)) if isinstance(part, Tensor) else float(part) for part in parts])
    return {name: LogValue(log.reduction, next(numbers), next(numbers), next(numbers)) for name, log in values.items()}


def pooled(parts: Iterable[Mapping[str, LogValue]]) -> dict[str, LogValue]:
    """Return the values, as Python numbers, of one batch that holds all batches; each may have its own names."""
    logs: dict[str, LogValue] = {}
    for part in parts:
        for name, value in part.items():
            logs[name] = _pool(logs[name], value) if name in logs else value
    return logs


def pooled_over_ranks(logs: Mapping[str, LogValue], device: torch.device) -> dict[str, LogValue]:
    """Return every process's values pooled, the same in each process.

    Args:
        logs: Python numbers, of the same names in the same order in every process.
        device: One that the process group communicates from.
    """
    if world_size() == 1 or not logs:
        return dict(logs)
    rows = [[float(log.value), float(log.weight), float(log.squares)] for log in logs.values()]
    gathered = all_gather(torch.tensor([rows], dtype=torch.float64, device=device)).tolist()
    return {
        name: reduce(_pool, (LogValue(logs[name].reduction, *rows[number]) for rows in gathered))
        for number, name in enumerate(logs)
    }


def log_state(logs: Mapping[str, LogValue]) -> dict[str, tuple[str, float, float, float]]:
    """Return plain values for a checkpoint, which loads with ``weights_only=True``."""
    return {
        name: (log.reduction, float(log.value), float(log.weight), float(log.squares)) for name, log in logs.items()
    }


def logs_from_state(state: Mapping[str, Any]) -> dict[str, LogValue]:
    """Return the values that :func:`log_state` described; a bare number, as in older checkpoints, is a mean."""
    return {
        name: LogValue(*log) if isinstance(log, list | tuple) else LogValue("mean", log) for name, log in state.items()
    }


def _pool(first: LogValue, second: LogValue) -> LogValue:
    reduction = first.reduction
    if not second.weight or not first.weight:
        return second if second.weight else first
    (a, n, first_squares), (b, m, second_squares) = (
        (float(log.value), float(log.weight), float(log.squares)) for log in (first, second)
    )
    if reduction == "sum":
        return LogValue(reduction, a + b, n + m)
    if reduction in ("min", "max"):
        return LogValue(reduction, min(a, b) if reduction == "min" else max(a, b), n + m)
    mean = (n * a + m * b) / (n + m)
    # Chan et al. 1979: S = S_a + S_b + (b - a)^2 n m / (n + m). E[x^2] - E[x]^2 would cancel.
    squares = first_squares + second_squares + (b - a) ** 2 * n * m / (n + m) if reduction == "std" else 0.0
    return LogValue(reduction, mean, n + m, squares)
