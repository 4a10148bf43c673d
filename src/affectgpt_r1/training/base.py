"""The stage contract: SFT, GRPO and encoder pretraining are strategies of one ``training_step``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from affectgpt_r1.data.samplers import GenerationSchedule
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.types import ClipBatch, LogValue, Phase, StageOutput


class Stage(Protocol):
    """A strategy, chosen by ``stage=sft|grpo|chord|control|pretrain_encoders``.

    Attributes:
        answers: Whether validation decodes answers and scores them on the emotion wheels.
        validation_logs: Names of what ``validation_step`` returns.
        phase: Opens a context around each phase of a step; a callback may replace it, to time them.
    """

    answers: bool
    validation_logs: tuple[str, ...]
    phase: Phase

    def prepare(self, policy: MultimodalPolicy) -> None:
        """Choose what trains, and take the reference, once the initial weights are loaded."""
        ...

    def training_step(self, policy: MultimodalPolicy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """Return loss and logs of one batch; its ``seed`` depends on the batch's place, not on what came before."""
        ...

    def validation_step(self, policy: MultimodalPolicy, batch: ClipBatch) -> Mapping[str, LogValue | Tensor]:
        """Return values to pool over the validation batches; a plain one is a mean over clips."""
        ...


@runtime_checkable
class BufferedStage(Stage, Protocol):
    """A stage that samples once for several training steps.

    Attributes:
        accumulate_grad_batches: The Trainer's, which the module sets: steps between which the weights stay as they are.
    """

    accumulate_grad_batches: int

    @property
    def schedule(self) -> GenerationSchedule:
        """Say how many training steps visit each generation batch."""
        ...

    def buffer_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to continue in the middle of a buffer: tensors and plain values."""
        ...

    def load_buffer_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`buffer_state`."""
        ...


@runtime_checkable
class MixedStage(Stage, Protocol):
    """A stage that adds a supervised loss, on the clips of ``batch.supervised``.

    Attributes:
        supervised_batch_size: Labelled clips of a training batch, which the module asks the data module for.
        global_step: Optimizer step, which the module sets: the weight of the loss follows it.
    """

    supervised_batch_size: int
    global_step: int


@runtime_checkable
class HasProcessState(Protocol):
    """A callback whose state differs between processes; :class:`ExactResume` keeps every process's."""

    def process_state(self) -> dict[str, Any]:
        """Return plain values and tensors, under keys of the checkpoint that no other part has."""
        ...

    def load_process_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the checkpoint's state of this process; keys may be missing in one of an older version."""
        ...


def join_stage_and_data(stage: Stage, data: Any, accumulate_grad_batches: int) -> None:
    """Tell the data module which batches a stage wants, and the stage how many make an optimizer step."""
    if isinstance(stage, BufferedStage):
        data.use_schedule(stage.schedule)
        stage.accumulate_grad_batches = accumulate_grad_batches
    if isinstance(stage, MixedStage):
        data.use_supervised(stage.supervised_batch_size)
