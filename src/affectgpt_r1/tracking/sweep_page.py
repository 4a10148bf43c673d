"""What the page of a sweep's parent run shows: the table of its choices, and their curves."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from affectgpt_r1.tracking.dashboard import code

log = logging.getLogger(__name__)

CURVES = ("val/f1", "val/kl", "train/reward", "train/frac_reward_zero_std", "train/entropy")
_COLUMNS = {"test/f1": "test F1", "test/precision": "precision", "test/recall": "recall", "val/kl": "KL (nats/token)"}
_PER_CALL = 1000


def describe_sweep(client: Any, run_id: str, trials: Sequence[Mapping[str, Any]], *, curves: bool = False) -> None:
    """Write the outcome and the table of its trials into the description of a sweep's parent run.

    Args:
        client: MLflow's.
        run_id: The parent run.
        trials: ``choice``, ``seed`` and ``run_id`` of each, in display order.
        curves: Log the scores and the mean curve of each choice on the parent, too; once, or its curves double.
    """
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    runs: dict[str, dict[str, Any]] = defaultdict(dict)  # by choice and id: a trial without training serves all seeds
    for trial in trials:
        try:
            runs[trial["choice"]][trial["run_id"]] = client.get_run(trial["run_id"])
        except MlflowException as error:
            log.warning("The sweep's page lacks %s, seed %s: %s", trial["choice"], trial["seed"], error)
    tags = client.get_run(run_id).data.tags
    kind = "**Synthetic clips.** " if tags.get("affectgpt.synthetic") == "true" else ""
    described = (
        _table(runs, tags.get("affectgpt.baseline", "")) if runs else "No trial has ended; they are its child runs."
    )
    client.set_tag(run_id, "mlflow.note.content", f"{kind}{described}\n\nCommand: {code(tags.get('command', ''))}")
    if not curves:
        return
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


def _table(runs: Mapping[str, Mapping[str, Any]], baseline: str) -> str:
    scores = {choice: _values(of_choice.values(), "test/f1") for choice, of_choice in runs.items()}
    tested = [choice for choice, values in scores.items() if values]
    # First, for MLflow folds a description after its first lines.
    best = max(tested, key=lambda choice: fmean(scores[choice]), default=None)
    said = [f"highest test F1: **{best}** {_mean_and_deviation(scores[best])}"] if best else []
    if baseline in tested and baseline != best:
        said.append(f"baseline {baseline} {_mean_and_deviation(scores[baseline])}")
    head = ["choice", "seeds", *_COLUMNS.values()]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for choice, of_choice in runs.items():
        cells = [_mean_and_deviation(_values(of_choice.values(), name)) for name in _COLUMNS]
        # MLflow's page sets cells without space between them.
        rows.append([choice, str(len(of_choice)), *(cell and f"&emsp;{cell}" for cell in cells)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    title = "; ".join([*said, "mean over seeds ± standard deviation"])
    return "\n".join([f"{title[0].upper()}{title[1:]}; each row is child runs.", "", *lines])


def _values(runs: Iterable[Any], name: str) -> list[float]:
    return [run.data.metrics[name] for run in runs if name in run.data.metrics]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
