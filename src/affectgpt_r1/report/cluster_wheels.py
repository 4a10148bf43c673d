"""Which emotions a policy recognises: one wheel per choice, each sector as dark as its cluster's F1."""

from __future__ import annotations

from collections import Counter
from typing import Any

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import label
from affectgpt_r1.report.queries import Sweep
from affectgpt_r1.report.wheel_drawing import Overlap, overlap, wheel


def cluster_scores(sweep: Sweep, lexicon: Lexicon) -> dict[str, dict[str, dict[str, float | None]]]:
    """Count, by choice and cluster of wheel 1, the answers of all seeds that hit, missed and added the cluster.

    ``f1`` is 2 hits / (2 hits + misses + extra), None for a cluster that neither answers nor targets name.
    """
    scores: dict[str, dict[str, dict[str, float | None]]] = {}
    for choice in sweep.choices:
        counts: list[Counter[str]] = [Counter() for _ in Overlap._fields]
        for trial in sweep.of(choice):
            for answer in trial.answers:
                for count, clusters in zip(counts, overlap(answer.openset, answer.target, lexicon), strict=True):
                    count.update(clusters)
        scores[choice] = {}
        for name in lexicon.clusters(1):
            hits, misses, extra = (count[name] for count in counts)
            total = 2 * hits + misses + extra
            scores[choice][name] = {
                "hits": hits, "misses": misses, "extra": extra, "f1": 2 * hits / total if total else None
            }  # fmt: skip
    return scores


def cluster_wheels(sweep: Sweep, lexicon: Lexicon) -> list[dict[str, Any]]:
    """Return what the template draws: a wheel per choice, whose sectors have a ``label`` and an ``opacity``."""
    panels = []
    for choice, scores in cluster_scores(sweep, lexicon).items():
        drawing = wheel(Overlap((), (), ()), lexicon)
        for sector in drawing["sectors"]:
            f1 = scores[sector["name"]]["f1"]
            sector["opacity"] = f1 or 0.0
            sector["value"] = "–" if f1 is None else f"{100 * f1:.0f}"
        words = "; ".join(f"{sector['name']} {sector['value']}" for sector in drawing["sectors"])
        panels.append({"title": label(sweep.name, choice), "sectors": drawing["sectors"], "words": words})
    return panels
