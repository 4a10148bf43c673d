"""The account of clips that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from affectgpt_r1.errors import DataError
from affectgpt_r1.types import ClipBatch, UnreadableClip


class UnreadableClips:
    """Counts the clips that were drawn and those among them that could not be read.

    Example:
        >>> skipped = UnreadableClips()
        >>> skipped.add([UnreadableClip("a", "a.wav: the file is empty")], num_read=9)
        >>> skipped.count, skipped.total, skipped.share
        (1, 10, 0.1)
        >>> skipped.rows()
        [('a', 'a.wav: the file is empty', 1)]
    """

    def __init__(self) -> None:
        self.total = 0
        self._times: Counter[str] = Counter()
        self._reason: dict[str, str] = {}

    def add(self, clips: Iterable[UnreadableClip], *, num_read: int = 0) -> None:
        """Count skipped clips, and ``num_read`` clips that were drawn beside them and read."""
        self.total += num_read
        for clip in clips:
            self.total += 1
            self._times[clip.name] += 1
            self._reason[clip.name] = clip.reason

    def add_batch(self, batch: ClipBatch) -> None:
        """Count what a batch read and what it skipped."""
        self.add(batch.skipped, num_read=len(batch))

    def merge(self, others: Iterable[UnreadableClips]) -> None:
        """Add other accounts, such as those of other processes."""
        for other in others:
            self.total += other.total
            self._times.update(other._times)
            self._reason.update(other._reason)

    def state_dict(self) -> dict[str, Any]:
        """The account as plain values."""
        return {"total": self.total, "times": dict(self._times), "reason": dict(self._reason)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the account by one of :meth:`state_dict`."""
        self.total = state["total"]
        self._times, self._reason = Counter(state["times"]), dict(state["reason"])

    @property
    def count(self) -> int:
        """How often a drawn clip could not be read."""
        return self._times.total()

    @property
    def share(self) -> float:
        """Skipped over drawn clips, 0 before the first."""
        return self.count / self.total if self.total else 0.0

    def rows(self) -> list[tuple[str, str, int]]:
        """``(name, reason, times)`` of every unreadable clip, by name."""
        return [(name, self._reason[name], self._times[name]) for name in sorted(self._times)]

    def raise_if_over(self, share: float) -> None:
        """Fail when more than ``share`` of the drawn clips was lost; early in a run one clip may be a large share.

        Raises:
            DataError: Lists the first reasons.
        """
        if self.share > share:
            reasons = "; ".join(reason for _, reason, _ in self.rows()[:5])
            raise DataError(
                f"{self.count} of {self.total} drawn clips could not be read ({self.share:.1%}; at most {share:.1%} "
                f"may be lost, data.max_unreadable_fraction): {reasons}"
            )
