"""Count the clips that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from affectgpt_r1.errors import DataError
from affectgpt_r1.types import ClipBatch, UnreadableClip


class UnreadableClips:
    """Count the clips that were drawn, and those among them that could not be read.

    Example:
        >>> unreadable = UnreadableClips()
        >>> unreadable.add([UnreadableClip("a", "a.wav: the file is empty")], num_read=9)
        >>> unreadable.count, unreadable.total, unreadable.rows()
        (1, 10, [('a', 'a.wav: the file is empty', 1)])
    """

    def __init__(self) -> None:
        self.total = 0
        self._times: Counter[str] = Counter()
        self._reason: dict[str, str] = {}

    def add(self, clips: Iterable[UnreadableClip], *, num_read: int = 0) -> None:
        """Count unreadable clips, and ``num_read`` clips that were drawn and read."""
        self.total += num_read
        for clip in clips:
            self.total += 1
            self._times[clip.name] += 1
            self._reason[clip.name] = clip.reason

    def add_batch(self, batch: ClipBatch) -> None:
        """Count the clips of a batch and those that it lacks."""
        self.add(batch.unreadable, num_read=len(batch))

    def merge(self, counts: Iterable[UnreadableClips]) -> None:
        """Add the counts of other processes or of an earlier run."""
        for count in counts:
            self.total += count.total
            self._times.update(count._times)
            self._reason.update(count._reason)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {"total": self.total, "times": dict(self._times), "reason": dict(self._reason)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.total = state["total"]
        self._times, self._reason = Counter(state["times"]), dict(state["reason"])

    @property
    def count(self) -> int:
        """Number of drawn clips that could not be read."""
        return self._times.total()

    def rows(self) -> list[tuple[str, str, int]]:
        """Return ``(name, reason, times)`` of every unreadable clip, by name."""
        return [(name, self._reason[name], self._times[name]) for name in sorted(self._times)]

    def raise_if_over(self, max_fraction: float) -> None:
        """Fail when more than ``max_fraction`` of the drawn clips was lost; early in a run a single clip may be more.

        Raises:
            DataError: Lists the first reasons.
        """
        fraction = self.count / self.total if self.total else 0.0
        if fraction > max_fraction:
            reasons = "; ".join(reason for _, reason, _ in self.rows()[:5])
            raise DataError(
                f"{self.count} of {self.total} drawn clips could not be read ({fraction:.1%}; at most "
                f"{max_fraction:.1%} may be lost, data.max_unreadable_fraction): {reasons}"
            )
