"""The published choice of a checkpoint, the best on each set's test clips, next to one that does not look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from affectgpt_r1.data.layouts.mer_unibench import UniBenchSet
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.evaluation.points import points
from affectgpt_r1.metrics.bootstrap import _percentiles
from affectgpt_r1.metrics.functional.wheel_f1 import Floats, NoTarget
from affectgpt_r1.metrics.unibench_bootstrap import (
    SummedMetric,
    hit_rate_metric,
    resampled_metrics,
    weighted_f1_metric,
    wheel_f1_metric,
)
from affectgpt_r1.types import EmotionSet

_CONFIDENCE = 0.95


def published_metric(
    clips: UniBenchSet,
    predicted: Sequence[EmotionSet],
    sentiments: Sequence[int],
    lexicon: Lexicon,
    no_target: NoTarget = "leave",
) -> SummedMetric:
    """Return a set's published metric as sums over its clips."""
    if clips.group == "sentiment":
        return weighted_f1_metric(sentiments, clips.values)
    of_group = wheel_f1_metric if clips.group == "fine" else hit_rate_metric
    return of_group(predicted, clips.labels, lexicon, no_target)


def compare_choices(metrics: Mapping[str, Mapping[str, SummedMetric]], chosen: str | None) -> dict[str, Any]:
    """Compare choices of a checkpoint by the published metrics.

    Args:
        metrics: By set and checkpoint.
        chosen: The checkpoint that was chosen without test clips. None: each set's is the best of the other sets'
            mean, for want of validation clips; with one set there is none.

    Returns:
        ``by``: how the honest choice was made; ``sets``: by name ``best`` and ``honest``, each with ``checkpoint``,
        ``published`` and ``interval``, ``optimism``, best minus honest, with ``optimism_interval`` (paired), and the
        ``intervals`` of every checkpoint; ``mean``: the same of the means over the sets, without checkpoints. Without
        an honest choice ``honest`` and ``optimism`` are None.
    """
    scores = {
        name: dict(zip(of_set, resampled_metrics(list(of_set.values()), seed=seed), strict=True))
        for seed, (name, of_set) in enumerate(metrics.items())  # sets are resampled independently
    }
    honest = {name: chosen or _best_elsewhere(scores, name) for name in scores}
    best = {name: max(of_set, key=lambda checkpoint: of_set[checkpoint][0]) for name, of_set in scores.items()}
    sets = {}
    for name, of_set in scores.items():
        fair = honest[name]
        sets[name] = _compared(of_set[best[name]], None if fair is None else of_set[fair])
        sets[name]["best"] |= {"checkpoint": best[name]}
        sets[name]["intervals"] = {checkpoint: _interval(values) for checkpoint, values in of_set.items()}
        if fair is not None:
            sets[name]["honest"] |= {"checkpoint": fair}
    fair_values = [scores[name][fair] for name, fair in honest.items() if fair is not None]
    means = (
        np.mean([scores[name][checkpoint] for name, checkpoint in best.items()], axis=0),
        np.mean(fair_values, axis=0) if len(fair_values) == len(scores) else None,
    )
    by = "named" if chosen else "other sets" if len(scores) > 1 else "none"
    return {"by": by, "sets": sets, "mean": _compared(*means)}


def _best_elsewhere(scores: Mapping[str, Mapping[str, Floats]], name: str) -> str | None:
    others = [of_set for other, of_set in scores.items() if other != name]
    if not others:
        return None
    return max(others[0], key=lambda checkpoint: float(np.mean([of_set[checkpoint][0] for of_set in others])))


def _compared(best: Floats, honest: Floats | None) -> dict[str, Any]:
    return {
        "best": {"published": float(best[0]), "interval": _interval(best)},
        "honest": None if honest is None else {"published": float(honest[0]), "interval": _interval(honest)},
        "optimism": None if honest is None else float(best[0] - honest[0]),
        "optimism_interval": None if honest is None else _interval(best - honest),
    }


def _interval(values: Floats) -> list[float]:
    interval = _percentiles(values, _CONFIDENCE)
    return [interval.low, interval.high]


def choices_rich_table(choice: Mapping[str, Any], titles: Mapping[str, str]) -> Table:
    """Return the table of :func:`compare_choices`."""
    table = Table(title="Checkpoint chosen on test clips, and without them", title_justify="left")
    table.add_column("set", no_wrap=True)
    for heading in ("best on test", "chosen without", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("checkpoints", overflow="fold")
    for name, row in {**choice["sets"], "mean": choice["mean"]}.items():
        best, honest = row["best"], row["honest"]
        names = [part["checkpoint"] for part in (best, honest) if part and "checkpoint" in part]
        table.add_row(
            titles.get(name, name),
            points(best["published"], best["interval"]),
            points(honest["published"], honest["interval"]) if honest else "",
            points(row["optimism"], row["optimism_interval"], signed=True),
            "; ".join(dict.fromkeys(names)),
        )
    how = {
        "named": "Chosen without: the one of --checkpoint.",
        "other sets": "Chosen without: for each set the checkpoint with the best mean over the other sets.",
        "none": "No choice without test clips: name one by --checkpoint.",
    }
    table.caption = f"{how[choice['by']]} 95 % intervals by a bootstrap over clips, checkpoints as they are."
    return table
