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
    """Add up the micro-batches so far of the current optimizer step."""

    num_batches: int = 0
    num_items: float = 0.0  # what their losses were divided by, summed; the step's gradients are divided by it
    logs: dict[str, LogValue] = field(default_factory=dict)  # pooled
    values: dict[str, float] = field(default_factory=dict)  # of the whole step, as they are logged
    has_stepped: bool = False  # the optimizer has used the gradients

    @property
    def is_open(self) -> bool:
        """Say whether there are gradients that wait for more micro-batches."""
        return self.num_batches > 0 and not self.has_stepped

    def add(
        self, logs: Mapping[str, LogValue | Tensor | float], num_items: float, *, repeated: Collection[str] = ()
    ) -> None:
        """Add a micro-batch whose loss was divided by ``num_items``."""
        self.num_batches += 1
        self.num_items += num_items
        self.add_logs(logs, repeated=repeated)

    def add_logs(self, logs: Mapping[str, LogValue | Tensor | float], *, repeated: Collection[str] = ()) -> None:
        """Pool a micro-batch's logs with those so far; ``repeated`` names the ones of a rollout logged before."""
        # These count only in a step that begins in the middle of a buffer, and has none of that name.
        fresh = {name: value for name, value in logs.items() if name not in repeated or name not in self.logs}
        self.logs = pooled([self.logs, as_floats(fresh)])

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint; empty between two steps."""
        if not self.is_open:
            return {}
        return {
            "num_batches": self.num_batches,
            "num_items": self.num_items,
            "logs": log_state(self.logs),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None, *, has_gradients: bool) -> AccumulatedStep:
        """Return the step that :meth:`state` described; None is in checkpoints of versions that did not store it.

        Raises:
            CheckpointError: There are gradients, and it is not known what they were divided by.
        """
        if state is None and has_gradients:
            raise CheckpointError(
                "ckpt_path: written between two accumulated batches by an older version, which weighted them "
                "differently; start from its weights by init_from="
            )
        if not state:
            return cls()
        return cls(state["num_batches"], state["num_items"], logs_from_state(state["logs"]))
