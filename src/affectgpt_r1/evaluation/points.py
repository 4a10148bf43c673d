"""Scores as text, in points (times 100)."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan


def points(
    value: float | None, interval: Iterable[float] | None = None, *, digits: int = 2, signed: bool = False
) -> str:
    """Format a fraction in points, with its interval in brackets; ``""`` for None and NaN."""
    if value is None or isnan(value):
        return ""
    shown, *bounds = (f"{100 * number:{'+' if signed else ''}.{digits}f}" for number in (value, *(interval or ())))
    return f"{shown} [{', '.join(bounds)}]" if bounds else shown
