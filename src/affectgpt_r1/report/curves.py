"""Training curves as small multiples: one panel a choice, the others pale behind it, all on one scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from affectgpt_r1.report.choices import label
from affectgpt_r1.report.formats import number
from affectgpt_r1.report.markup import Markup, element, join
from affectgpt_r1.report.queries import REWARD_PART, Curve, Sweep

_MOST_POINTS = 40
_WIDTH, _HEIGHT = 220.0, 116.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 30.0, 34.0, 8.0, 18.0


class Quantity(NamedTuple):
    """A metric to draw."""

    key: str
    title: str
    scale: float = 1.0
    target: str | None = None


class Band(NamedTuple):
    """Mean over seeds with the lowest and the highest seed, at some steps."""

    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def quantities(sweep: Sweep) -> list[Quantity]:
    """What is drawn of a sweep: F, words, rewards and their parts, then how training went."""
    logged = sorted({key for cell in sweep.cells for key in cell.curves})
    parts = [part for key in logged if (part := REWARD_PART.fullmatch(key))]
    return [
        Quantity("val/f1", "F on held-out clips (validation), points", 100.0),
        Quantity("val/answers/distinct_words", "Words per answer (validation)", target="test/answers/target_words"),
        Quantity(
            "val/answers/clusters_named_fraction", "Share of the wheels’ clusters that an answer names (validation)"
        ),
        Quantity("val/answers/answer_entropy", "Entropy of the answers across clips (validation)"),
        Quantity("train/reward", "Reward"),
        *(Quantity(part[0], f"Reward part: {part[1]}") for part in parts),
        Quantity("train/entropy", "Entropy of the policy, nats per token"),
        Quantity("train/frac_reward_zero_std", "Share of groups whose rewards are all equal"),
        Quantity("train/kl", "KL to the starting policy"),
    ]


def curve_metrics(sweep: Sweep) -> Markup:
    """All metrics of a sweep; a quantity that no run logged is named at the end."""
    metrics, absent = [], []
    for quantity in quantities(sweep):
        bands = {choice: band for choice in sweep.choices if (band := band_of(sweep, choice, quantity)) is not None}
        if bands:
            metrics.append(_figure(sweep, quantity, bands))
        else:
            absent.append(quantity.title)
    note = element("p", f"Not logged by any run: {'; '.join(absent)}.", class_="note") if absent else ""
    return join([metrics, note])


def band_of(sweep: Sweep, choice: str, quantity: Quantity) -> Band | None:
    """A choice's curve over seeds, None if it has none.

    Only steps that every seed has count. Longer curves are averaged over at most 40 equal stretches, seed by seed.
    """
    curves = [cell.curves[quantity.key] for cell in sweep.of(choice) if quantity.key in cell.curves]
    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if len(shared) < 2:
        return None
    stretches = _stretches(shared)
    by_seed = [[quantity.scale * _mean_at(curve, steps) for steps in stretches] for curve in curves]
    columns = list(zip(*by_seed, strict=True))
    return Band(
        [fmean(steps) for steps in stretches],
        [fmean(c) for c in columns],
        [min(c) for c in columns],
        [max(c) for c in columns],
    )


def _stretches(steps: Sequence[int]) -> list[Sequence[int]]:
    count = min(_MOST_POINTS, len(steps))
    edges = [len(steps) * place // count for place in range(count + 1)]
    return [steps[start:end] for start, end in pairwise(edges)]


def _mean_at(curve: Curve, steps: Sequence[int]) -> float:
    return fmean(curve[step] for step in steps)


def _figure(sweep: Sweep, quantity: Quantity, bands: Mapping[str, Band]) -> Markup:
    target = _target(sweep, quantity)
    values = [value for band in bands.values() for value in (*band.low, *band.high)] + (
        [] if target is None else [target]
    )
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    last = max(band.steps[-1] for band in bands.values())
    panels = [
        element(
            "div",
            element("div", label(sweep.name, choice), class_="panel-title"),
            _panel(choice, bands, limits, last, target, f"{quantity.title}: {label(sweep.name, choice)}"),
            class_="panel",
        )
        for choice in bands
    ]
    return element("metric", element("figcaption", quantity.title), element("div", panels, class_="panels"))


def _target(sweep: Sweep, quantity: Quantity) -> float | None:
    key = quantity.target
    values = [cell.metrics[key] for cell in sweep.cells if key is not None and key in cell.metrics]
    return quantity.scale * fmean(values) if values else None


def _panel(
    choice: str, bands: Mapping[str, Band], limits: tuple[float, float], last: float, target: float | None, words: str
) -> Markup:
    low, high = limits

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(last, 1)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    def line(steps: Sequence[float], values: Sequence[float]) -> str:
        return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, values, strict=True))

    own = bands[choice]
    others = [
        element("polyline", points=line(band.steps, band.mean), class_="other")
        for name, band in bands.items()
        if name != choice
    ]
    outline = f"{line(own.steps, own.high)} {line(own.steps[::-1], own.low[::-1])}"
    marks = []
    if target is not None:
        marks.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y(target), y2=y(target), class_="target"))
        marks.append(element("text", "target", x=_LEFT + 2, y=y(target) - 3))
    return element(
        "svg",
        _axes(limits, last, x, y),
        others,
        marks,
        element("polygon", points=outline, class_="band"),
        element("polyline", points=line(own.steps, own.mean), class_="own"),
        element("circle", cx=x(own.steps[-1]), cy=y(own.mean[-1]), r=2.2, class_="end"),
        element(
            "text",
            number(own.mean[-1], _digits(limits)),
            x=x(own.steps[-1]) + 5,
            y=y(own.mean[-1]) + 3.5,
            class_="value",
        ),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        aria_label=words,
    )


def _axes(
    limits: tuple[float, float], last: float, x: Callable[[float], float], y: Callable[[float], float]
) -> list[Markup]:
    """Faint lines at round values, and the first and the last step."""
    parts = []
    marks = ticks(*limits)
    digits = _digits_of(marks)
    for tick in marks:
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(element("text", number(tick, digits), x=_LEFT - 5, y=y(tick) + 3, text_anchor="end"))
    base = _HEIGHT - 4
    parts.append(element("text", "0", x=x(0), y=base, text_anchor="middle"))
    parts.append(element("text", f"step {last:.0f}", x=x(last), y=base, text_anchor="end"))
    return parts


def ticks(low: float, high: float) -> list[float]:
    """Two to five round values in an interval, at least one.

    >>> ticks(0.0, 1.0), ticks(61.3, 68.2)
    ([0.0, 0.5, 1.0], [62, 64, 66, 68])
    """
    power = 10 ** math.floor(math.log10(high - low))
    step = next(s for s in (0.2 * power, 0.5 * power, power, 2 * power, 5 * power) if (high - low) / s < 5 - 1e-6)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 10) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _digits_of(values: Sequence[float]) -> int:
    """Fewest decimals that print every value as it is."""
    return next(digits for digits in range(12) if all(abs(round(v, digits) - v) < 1e-9 for v in values))


def _digits(limits: tuple[float, float]) -> int:
    """Decimals that tell values on this scale apart."""
    return min(4, max(0, math.ceil(-math.log10((limits[1] - limits[0]) / 20))))
