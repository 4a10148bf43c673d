"""What the page of a sweep's parent run shows: the table of its choices, and their curves."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

log = logging.getLogger(__name__)

CURVES = ("val/f1", "val/kl", "train/reward", "train/frac_reward_zero_std", "train/entropy")
_COLUMNS = {"test/f1": "test F1", "test/precision": "precision", "test/recall": "recall", "val/kl": "KL (nats/token)"}
_PER_CALL = 1000


def describe_sweep(client: Any, run_id: str, trials: Sequence[Mapping[str, Any]]) -> None:
    """Write the table into the description of a sweep's parent run, and log the mean curve of each choice on it.

    Args:
        client: MLflow's.
        run_id: The parent run.
        trials: ``choice``, ``seed`` and ``run_id`` of each, in display order.
    """
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    runs: dict[str, dict[str, Any]] = defaultdict(dict)  # by choice and id: a trial without training serves all seeds
    for trial in trials:
        try:
            runs[trial["choice"]][trial["run_id"]] = client.get_run(trial["run_id"])
        except MlflowException as error:
            log.warning("The sweep's page lacks %s, seed %s: %s", trial["choice"], trial["seed"], error)
    is_synthetic = client.get_run(run_id).data.tags.get("affectgpt.synthetic") == "true"
    kind = "**Synthetic clips.** " if is_synthetic else ""
    client.set_tag(run_id, "mlflow.note.content", kind + _table(runs))
    now = time.time_ns() // 1_000_000
    metrics = []
    for choice, of_choice in runs.items():
        scores = {name: _values(of_choice.values(), name) for name in _COLUMNS}
        tested = {name: fmean(values) for name, values in scores.items() if values and name.startswith("test/")}
        metrics += [Metric(f"{name}/{choice}", value, now, 0) for name, value in tested.items()]
        for name in (name for name in CURVES if _values(of_choice.values(), name)):
            for step, value in _mean_curve(client, of_choice, name).items():
                metrics.append(Metric(f"{name}/{choice}", value, now, step))
    for start in range(0, len(metrics), _PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _PER_CALL])


def _mean_curve(client: Any, run_ids: Iterable[str], name: str) -> dict[int, float]:
    """Return a metric's mean over runs at each step that all of them have."""
    curves = [{point.step: point.value for point in client.get_metric_history(run_id, name)} for run_id in run_ids]
    curves = [curve for curve in curves if curve]
    steps = set.intersection(*map(set, curves)) if curves else set()
    return {step: fmean(curve[step] for curve in curves) for step in sorted(steps)}


def _table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["choice", "seeds", *_COLUMNS.values()]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for choice, of_choice in runs.items():
        cells = [_mean_and_deviation(_values(of_choice.values(), name)) for name in _COLUMNS]
        rows.append([choice, str(len(of_choice)), *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["Mean over seeds ± standard deviation; each row is the runs below this one.", "", *lines])


def _values(runs: Iterable[Any], name: str) -> list[float]:
    return [run.data.metrics[name] for run in runs if name in run.data.metrics]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
