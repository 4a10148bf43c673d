"""What the micro-batches of an optimizer step add up to under gradient accumulation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.training.log_values import as_floats, log_state, logs_from_state, pooled
from affectgpt_r1.types import LogValue


@dataclass
class AccumulatedStep:
    """The micro-batches so far of the current optimizer step.

    Attributes:
        num_batches: How many there were.
        num_items: What their losses were divided by, summed; the step's gradients are divided by it.
        logs: Their logs, pooled.
        seconds: What took how long, summed.
        has_stepped: Whether the optimizer has used the gradients.
    """

    num_batches: int = 0
    num_items: float = 0.0
    logs: dict[str, LogValue] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    has_stepped: bool = False

    @property
    def is_open(self) -> bool:
        """Whether there are gradients that wait for more micro-batches."""
        return self.num_batches > 0 and not self.has_stepped

    def add(
        self, logs: Mapping[str, LogValue | Tensor | float], num_items: float, *, repeated: Collection[str] = ()
    ) -> None:
        """Add a micro-batch.

        Args:
            logs: What it logs.
            num_items: What its loss was divided by.
            repeated: Names of logs that an earlier micro-batch, of this step or of one before, has had already; they
                count only where this step has none of that name.
        """
        self.num_batches += 1
        self.num_items += num_items
        fresh = {name: value for name, value in logs.items() if name not in repeated or name not in self.logs}
        self.logs = pooled([self.logs, as_floats(fresh)])

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add to the time of each phase."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint; empty between two steps."""
        if not self.is_open:
            return {}
        return {
            "num_batches": self.num_batches,
            "num_items": self.num_items,
            "logs": log_state(self.logs),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None, *, has_gradients: bool) -> AccumulatedStep:
        """The step that :meth:`state` described.

        Args:
            state: None in checkpoints of versions that did not store it.
            has_gradients: Whether gradients were stored that wait for more micro-batches.

        Raises:
            CheckpointError: There are gradients, and it is not known what they were divided by.
        """
        if state is None and has_gradients:
            raise CheckpointError(
                "ckpt_path: written between two accumulated batches by an older version, which weighted them "
                "differently; start from its weights by init_from="
            )
        return cls(**{**state, "logs": logs_from_state(state["logs"])}) if state else cls()
