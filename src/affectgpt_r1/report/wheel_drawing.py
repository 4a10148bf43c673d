"""One emotion wheel as SVG: hits filled, misses outlined, words beyond the target dotted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.markup import Markup, element
from affectgpt_r1.types import EmotionSet

WHEEL = 1
_INNER, _OUTER, _LABELS = 17.0, 40.0, 45.0
_GAP = 0.03


class Overlap(NamedTuple):
    """Clusters of one wheel, in alphabetical order."""

    hits: tuple[str, ...]
    misses: tuple[str, ...]
    extra: tuple[str, ...]


def overlap(openset: EmotionSet, target: EmotionSet, lexicon: Lexicon) -> Overlap:
    """What an answer and its target share on the wheel that the report draws.

    Args:
        openset: The answer's words.
        target: The target's words.
        lexicon: Maps words onto clusters.
    """
    answered, wanted = (clusters_of(words, lexicon) for words in (openset, target))
    parts = (answered & wanted, wanted - answered, answered - wanted)
    return Overlap(*(tuple(sorted(part)) for part in parts))


def clusters_of(words: Iterable[str], lexicon: Lexicon) -> set[str]:
    """Level-1 clusters that ``words`` name on the wheel that the report draws."""
    return {cluster for word in words if (cluster := lexicon.cluster(word, WHEEL)) is not None}


def wheel_svg(shares: Overlap, lexicon: Lexicon, *, labels: bool = False) -> Markup:
    """The wheel's sectors, marked by class ``hit``, ``miss``, ``extra`` or ``empty``.

    Args:
        shares: Which sectors are what.
        lexicon: Names the sectors.
        labels: Write the names of the marked sectors around the wheel.
    """
    names = lexicon.clusters(WHEEL)
    state = {name: kind for kind, part in zip(("hit", "miss", "extra"), shares, strict=True) for name in part}
    step = 2 * math.pi / len(names)
    parts = []
    for place, name in enumerate(names):
        start, end = place * step - math.pi / 2, (place + 1) * step - math.pi / 2
        kind = state.get(name, "empty")
        parts.append(element("path", element("title", f"{name}: {kind}"), d=_sector(start, end), class_=kind))
        middle = (start + end) / 2
        if kind == "extra":
            radius = (_INNER + _OUTER) / 2
            x, y = _point(radius, middle)
            parts.append(element("circle", cx=x, cy=y, r=3.5, class_="dot"))
        if labels and kind != "empty":
            x, y = _point(_LABELS, middle)
            anchor = "middle" if abs(x) < 8 else "start" if x > 0 else "end"
            parts.append(element("text", name, x=x, y=y + 3 + 3 * math.sin(middle), text_anchor=anchor))
    view = "-100 -56 200 112" if labels else "-43 -43 86 86"
    words = "; ".join(f"{kind}: {', '.join(part) or 'none'}" for kind, part in shares._asdict().items())
    return element(
        "svg", parts, viewBox=view, class_="wheel labelled" if labels else "wheel", role="img", aria_label=words
    )


def _sector(start: float, end: float) -> str:
    points = [_point(_OUTER, start + _GAP), _point(_OUTER, end - _GAP), _point(_INNER, end - 2 * _GAP)]
    (a, b), (c, d), (e, f) = points
    g, h = _point(_INNER, start + 2 * _GAP)
    return (
        f"M{a:.2f} {b:.2f}A{_OUTER:g} {_OUTER:g} 0 0 1 {c:.2f} {d:.2f}"
        f"L{e:.2f} {f:.2f}A{_INNER:g} {_INNER:g} 0 0 0 {g:.2f} {h:.2f}Z"
    )


def _point(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)
