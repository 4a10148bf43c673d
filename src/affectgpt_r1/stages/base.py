"""The stage contract: SFT, GRPO and tower pretraining are strategies of one ``training_step``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.types import ClipBatch, StageOutput


class Stage(Protocol):
    """A strategy chosen by ``stage=sft|grpo|towers``.

    Attributes:
        answers: Whether validation decodes answers and scores them on the emotion wheels.
    """

    answers: bool

    def prepare(self, policy: MultimodalPolicy) -> None:
        """Choose what trains, and take the reference, once the initial weights are loaded."""
        ...

    def training_step(self, policy: MultimodalPolicy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """Loss and logs of one batch.

        Args:
            policy: The policy.
            batch: ``B`` clips.
            seed: Drawn from run seed, epoch, batch and rank, so that a resumed run samples what it would have sampled.
        """
        ...

    def validation_step(self, policy: MultimodalPolicy, batch: ClipBatch) -> Mapping[str, Tensor]:
        """Scalars to average over the validation batches, beside the wheel scores."""
        ...
