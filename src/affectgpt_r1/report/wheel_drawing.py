"""One emotion wheel as SVG: hits filled, misses outlined, words beyond the target dotted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.types import EmotionSet

WHEEL = 1
_INNER, _OUTER, _LABELS = 17.0, 40.0, 45.0
_GAP = 0.03


class Overlap(NamedTuple):
    """Clusters of one wheel, in alphabetical order."""

    hits: tuple[str, ...]
    misses: tuple[str, ...]
    extra: tuple[str, ...]


def overlap(openset: EmotionSet, target: EmotionSet, lexicon: Lexicon, place: int = WHEEL) -> Overlap:
    """Compare an answer's words with its target's on one wheel, by default the one that the report draws."""
    answered, wanted = (clusters_of(words, lexicon, place) for words in (openset, target))
    parts = (answered & wanted, wanted - answered, answered - wanted)
    return Overlap(*(tuple(sorted(part)) for part in parts))


def clusters_of(words: Iterable[str], lexicon: Lexicon, place: int = WHEEL) -> set[str]:
    """Return the level-1 clusters that ``words`` name on one wheel."""
    return {cluster for word in words if (cluster := lexicon.cluster(word, place)) is not None}


def wheel(clusters: Overlap, lexicon: Lexicon, words: EmotionSet | None = None) -> dict[str, Any]:
    """Return what the template draws: sectors of the kinds ``hit``, ``miss``, ``extra`` and ``empty``.

    Args:
        clusters: Which sectors are of which kind.
        lexicon: Names the sectors.
        words: Written next to their sectors with the names of the sectors that are not empty; None for no labels.
    """
    names = lexicon.clusters(WHEEL)
    kinds = {name: kind for kind, part in zip(("hit", "miss", "extra"), clusters, strict=True) for name in part}
    step = 2 * math.pi / len(names)
    sectors = []
    for index, name in enumerate(names):
        start = index * step - math.pi / 2  # clockwise from the top, for SVG's y points down
        middle = start + step / 2
        x, y = _point(_LABELS, middle)
        sectors.append({
            "name": name,
            "kind": kinds.get(name, "empty"),
            "path": _sector(start, start + step),
            "dot": _point((_INNER + _OUTER) / 2, middle),
            # Words make a second line, for which the name moves up where it would run into its sector.
            "label": (x, y + 3 + 3 * math.sin(middle) - (0 if words is None else 4.5 * (1 - math.sin(middle)))),
            "words": ", ".join(dict.fromkeys(w for w in words or () if lexicon.cluster(w, WHEEL) == name)),
            "anchor": "middle" if abs(x) < 8 else "start" if x > 0 else "end",
        })  # fmt: skip
    text = "; ".join(f"{kind}: {', '.join(part) or 'none'}" for kind, part in clusters._asdict().items())
    return {"sectors": sectors, "words": text, "labels": words is not None}


def _sector(start: float, end: float) -> str:
    # The gap between sectors is as wide at the inner radius as at the outer one, where its angle is smaller.
    (a, b), (c, d) = _point(_OUTER, start + _GAP), _point(_OUTER, end - _GAP)
    (e, f), (g, h) = _point(_INNER, end - 2 * _GAP), _point(_INNER, start + 2 * _GAP)
    return (
        f"M{a:.2f} {b:.2f}A{_OUTER:g} {_OUTER:g} 0 0 1 {c:.2f} {d:.2f}"
        f"L{e:.2f} {f:.2f}A{_INNER:g} {_INNER:g} 0 0 0 {g:.2f} {h:.2f}Z"
    )


def _point(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)
