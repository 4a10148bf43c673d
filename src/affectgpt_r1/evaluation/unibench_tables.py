"""Tables of MER-UniBench and of single-label recognition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from affectgpt_r1.evaluation.points import points

TITLES = {
    "mer2023": "MER2023",
    "mer2024": "MER2024",
    "meld": "MELD",
    "iemocap": "IEMOCAP",
    "cmumosi": "CMU-MOSI",
    "cmumosei": "CMU-MOSEI",
    "sims": "CH-SIMS",
    "simsv2": "CH-SIMS v2",
    "ovmerdplus": "OV-MERD+",
}
_MORE = {
    "mscore": "mscore",
    "six_class_waf": "six-class WAF",
    "accuracy": "ACC",
    "precision": "P",
    "recall": "R",
    "unmapped_rate": "unmapped",
    "predicted_neutral": "neutral",
}
_RECOGNITION_TITLES = {"dfew": "DFEW", "mafw": "MAFW", "ravdess": "RAVDESS"}


def unibench_rich_table(summary: Mapping[str, Any]) -> Table:
    """Return one row per set and one for the mean: the published and the corrected metric in points.

    Args:
        summary: Of :func:`~affectgpt_r1.evaluation.unibench_scores.unibench_table` or
            :func:`~affectgpt_r1.evaluation.unibench_scores.unibench_over_checkpoints`.
    """
    table = Table(title=f"MER-UniBench, {summary['lexicon']} lexicon", title_justify="left", caption_justify="left")
    table.add_column("set", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for column in ("clips", "published", "corrected"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("more")
    for name, metrics in summary["sets"].items():
        table.add_row(
            TITLES[name],
            metrics["metric"],
            _clips(metrics),
            points(metrics["published"]),
            points(metrics["corrected"]),
            _more(metrics),
        )
    table.add_section()
    mean = summary["mean"]
    table.add_row(_mean_of(summary), "", "", points(mean["published"]), points(mean["corrected"]), _missing(summary))
    table.caption = _caption(summary)
    return table


def checkpoints_rich_table(summary: Mapping[str, Any]) -> Table:
    """Return one row per checkpoint: the published metric of each set and their mean, in points.

    Args:
        summary: Of :func:`~affectgpt_r1.evaluation.unibench_scores.unibench_over_checkpoints`.
    """
    table = Table(title="As published, by checkpoint", title_justify="left")
    table.add_column("checkpoint", overflow="fold")
    for name in summary["sets"]:
        table.add_column(TITLES[name], justify="right")
    table.add_column("mean", justify="right")
    for checkpoint, metrics in summary["checkpoints"]["published"].items():
        table.add_row(checkpoint, *(points(metrics[name]) for name in (*summary["sets"], "mean")))
    return table


def recognition_rich_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one row per set, in points, of :func:`~affectgpt_r1.evaluation.unibench_scores.recognition_table`."""
    table = Table(title="Single-label recognition", title_justify="left", caption_justify="left")
    table.add_column("set")
    for column in ("clips", "WAR", "UAR", "no class"):
        table.add_column(column, justify="right")
    table.add_column("labels")
    for name, metrics in scores.items():
        rates = [points(metrics[key]) for key in ("war", "uar", "unparsed_rate")]
        table.add_row(_RECOGNITION_TITLES[name], f"{metrics['num_clips']:,}", *rates, metrics["source"])
    table.caption = "An answer with several labels, or with one that is not a class of the set, is wrong."
    return table


def _clips(metrics: Mapping[str, Any]) -> str:
    """Return the number of clips, next to that of the papers where it differs."""
    if metrics["num_clips"] == metrics["published_clips"]:
        return f"{metrics['num_clips']:,}"
    return f"{metrics['num_clips']:,} (papers: {metrics['published_clips']:,})"


def _more(metrics: Mapping[str, Any]) -> str:
    parts = [f"{short} {points(metrics['details'][key])}" for key, short in _MORE.items() if key in metrics["details"]]
    if "checkpoint" in metrics:
        chosen = metrics["published_chosen"]
        parts.append(metrics["checkpoint"] + ("" if chosen is None else f"; the chosen one has {points(chosen)}"))
    return ", ".join(parts)


def _mean_of(summary: Mapping[str, Any]) -> str:
    return f"mean of {len(summary['sets'])} of the nine" if summary["missing"] else "mean of nine"


def _missing(summary: Mapping[str, Any]) -> str:
    if not summary["missing"]:
        return ""
    titles = [TITLES[name] for name in summary["missing"]]
    return f"not comparable with a mean of nine; not scored:\n{', '.join(titles)}"


def _caption(summary: Mapping[str, Any]) -> str:
    checkpoints = summary["checkpoints"]
    scored = (
        "Here, one checkpoint was scored; none was picked by set."
        if checkpoints is None
        else f"Here, out of {', '.join(checkpoints['names'])}; corrected: {checkpoints['chosen'] or 'none was named'}."
    )
    notes = dict(summary["notes"])
    return "\n".join([f"{notes.pop('checkpoint')} {scored}", *notes.values()])
