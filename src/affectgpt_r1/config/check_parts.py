"""What the parts of ``gpu-check`` find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Limit:
    """A measured number, and what it must be; an aim that is missed makes nothing wrong."""

    name: str
    value: float
    bound: float
    at_most: bool = True
    is_aim: bool = False

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound; NaN never is."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass
class Part:
    """What a part of the check found."""

    name: str
    limits: list[Limit] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""
    error: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether it failed, or a number that is not an aim is out of bounds."""
        return bool(self.error) or any(not limit.holds and not limit.is_aim for limit in self.limits)
