"""Print metrics, the same in every format of the report."""

from __future__ import annotations

MINUS = "−"
NOTHING = "–"


def number(value: float | None, digits: int = 2) -> str:
    """Print a metric with a real minus sign; a dash for None.

    >>> number(-1.234), number(None)
    ('−1.23', '–')
    """
    return NOTHING if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def points(fraction: float | None) -> str:
    """Print a fraction in points of 100.

    >>> points(0.6249)
    '62.49'
    """
    return NOTHING if fraction is None else number(100 * fraction)


def signed(value: float) -> str:
    """Print a metric that always has its sign.

    >>> signed(0.5), signed(-0.5), signed(-0.001)
    ('+0.50', '−0.50', '+0.00')
    """
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", MINUS)


def between(low: float | None, high: float | None, scale: float = 1.0, *, sign: bool = True) -> str:
    """Print an interval, empty where there is none.

    >>> between(-0.01, 0.02, scale=100)
    '[−1.00, +2.00]'
    """
    if low is None or high is None:
        return ""
    form = signed if sign else number
    return f"[{form(scale * low)}, {form(scale * high)}]"


def mean_and_half(mean: float, high: float | None, scale: float = 1.0) -> str:
    """Print a mean and half its symmetric interval, which is left out where there is none.

    >>> mean_and_half(0.6, 0.61, scale=100)
    '60.00 ± 1.00'
    """
    return number(scale * mean) if high is None else f"{number(scale * mean)} ± {number(scale * (high - mean))}"


def probability(p: float) -> str:
    """Print a p-value.

    >>> probability(0.04), probability(0.0001)
    ('0.040', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
