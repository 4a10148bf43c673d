"""The stage contract: SFT, GRPO and encoder pretraining are strategies of one ``training_step``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from affectgpt_r1.data.samplers import GenerationSchedule
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.types import ClipBatch, LogValue, StageOutput


class Stage(Protocol):
    """A strategy chosen by ``stage=sft|grpo|encoders``.

    Attributes:
        answers: Whether validation decodes answers and scores them on the emotion wheels.
        validation_logs: Names of what ``validation_step`` returns.
    """

    answers: bool
    validation_logs: tuple[str, ...]

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

    def validation_step(self, policy: MultimodalPolicy, batch: ClipBatch) -> Mapping[str, LogValue | Tensor]:
        """Values to pool over the validation batches, besides the wheel scores; a plain one is a mean over clips."""
        ...


@runtime_checkable
class BufferedStage(Stage, Protocol):
    """A stage that samples once for several training steps."""

    @property
    def schedule(self) -> GenerationSchedule:
        """How many training steps visit each generation batch."""
        ...

    def buffer_state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on in the middle of a buffer: tensors and plain values."""
        ...

    def load_buffer_state(self, state: Mapping[str, Any]) -> None:
        """Take up a buffer where :meth:`buffer_state` left it."""
        ...


class ResumableData(Protocol):
    """What a data module offers for exact resume."""

    def resume_position(self, epoch: int, batch: int) -> None:
        """Start the next training epoch ``epoch`` at batch ``batch``."""
        ...

    def use_schedule(self, schedule: GenerationSchedule) -> None:
        """Repeat training batches for the steps that share what was sampled at once."""
        ...
