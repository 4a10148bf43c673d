"""Checks that stop a run which would otherwise train nothing, or train on nonsense."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from affectgpt_r1.errors import CheckpointError, ConfigError, TrainingError
from affectgpt_r1.io.clean_text import json_line
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.plain_json import finite_or_none
from affectgpt_r1.types import ClipBatch, StageOutput

CAUSES = "check init_from, model.lora.target_modules and what model= freezes: the loss must reach a weight that trains"


def check_trainable(named_parameters: Iterable[tuple[str, nn.Parameter]], stage: str) -> None:
    """Raise :class:`ConfigError` for a model of which nothing trains."""
    if not any(parameter.requires_grad for _, parameter in named_parameters):
        raise ConfigError(f"stage={stage}: no weight trains; {CAUSES}")


def check_full_precision(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raise :class:`ConfigError` for the first weight that would train in half precision and lose small steps."""
    for name, parameter in named_parameters:
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError(
                f"{name} would train in {kind} and lose its small steps; set model.language_model.dtype=float32, or "
                "freeze it below adapters (model.lora)"
            )


def check_local_rows(num_clips: int, num_processes: int) -> None:
    """Raise :class:`ConfigError` if a process has no validation clip: the others would wait for it."""
    if num_clips < num_processes:
        raise ConfigError(
            f"{num_clips} validation clips for {num_processes} processes: give each a clip, or lower trainer.devices"
        )


def check_num_processes(stored: int, present: int) -> None:
    """Raise :class:`CheckpointError` if a run is resumed by another number of processes: each has a state."""
    if stored != present:
        raise CheckpointError(
            f"ckpt_path: written by {stored} processes, here are {present}; resume with as many, or start a new run "
            "from its weights by init_from="
        )


def check_loss_has_gradient(loss: Tensor, stage: str) -> None:
    """Raise :class:`ConfigError` for a loss that is a constant."""
    if not loss.requires_grad:
        raise ConfigError(f"stage={stage}: the loss depends on no weight that trains; {CAUSES}")


def check_gradients(parameters: Iterable[nn.Parameter], stage: str) -> None:
    """Raise :class:`ConfigError` if every gradient is missing after a backward pass."""
    # Gradients of zeros are left alone: a rollout of equal rewards rightly gives them, and is counted as such.
    if all(parameter.grad is None for parameter in parameters if parameter.requires_grad):
        raise ConfigError(f"stage={stage}: the loss gave no weight a gradient; {CAUSES}")


def divergence_remedy(folder: Path, *, has_kl: bool) -> str:
    """Return what to do about a loss or a gradient that is infinite or NaN, in words that work as they are.

    Args:
        folder: The run's.
        has_kl: Whether the stage has a KL term.
    """
    last, best = (folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    lower = "Lower optim.optimizer.lr" + (" or raise stage.beta" if has_kl else "")
    if not last.is_file():
        return f"{lower}, then run the command again"
    earlier = f"; if the weights there have diverged already, by ckpt_path={best}" if best.is_file() else ""
    return f"{lower}, then resume by ckpt_path={last}{earlier}"


def check_finite_gradients(norm: Tensor, step: int, remedy: str, *, scaler: object | None = None) -> None:
    """Stop before a step whose gradients would make every weight NaN, and with them the next checkpoint.

    Args:
        norm: The norm of all gradients.
        step: The optimizer step.
        remedy: See :func:`divergence_remedy`.
        scaler: The gradient scaler of ``16-mixed``. It skips a step with infinite gradients and lowers its scale, which
            the first steps of a run need, so then nothing is refused.

    Raises:
        TrainingError: The norm is infinite or NaN.
    """
    if scaler is None and not math.isfinite(float(norm)):
        raise TrainingError(f"Step {step}: the gradients' norm is {float(norm)}, though the loss is finite. {remedy}")


def check_finite(
    output: StageOutput, batch: ClipBatch, folder: Path, step: int, remedy: str = "Lower optim.optimizer.lr"
) -> None:
    """Stop at a loss or KL that is infinite or NaN, and keep what it came from.

    Args:
        output: What the stage returned.
        batch: The clips, where the output has no records.
        folder: Where ``nonfinite_step_000012.jsonl`` is written: a line for each completion, or clip.
        step: The optimizer step.
        remedy: See :func:`divergence_remedy`.

    Raises:
        TrainingError: Names the file and the first clips.
    """
    suspects = {"loss": output.loss.detach(), **{name: output.logs[name] for name in ("kl",) if name in output.logs}}
    values = {name: float(value) for name, value in suspects.items()}
    if all(math.isfinite(value) for value in values.values()):
        return
    kept = ("name", "completion", "reward", "advantage")
    rows = [{key: finite_or_none(getattr(record, key)) for key in kept} for record in output.records] or [
        {"name": name, "target": ", ".join(words)} for name, words in zip(batch.names, batch.labels, strict=True)
    ]
    path = folder / f"nonfinite_step_{step:06d}.jsonl"
    write_text(path, "".join(map(json_line, rows)))
    stated = ", ".join(f"{name} = {value}" for name, value in values.items())
    clips = ", ".join(dict.fromkeys(str(row["name"]) for row in rows))
    raise TrainingError(f"Step {step}: {stated} on {clips}; clips and completions are in {path}. {remedy}")


def divide_gradients(parameters: Iterable[nn.Parameter], divisor: float) -> None:
    """Divide all gradients, in place; a divisor of 0 leaves them: they are zeros then."""
    for parameter in parameters:
        if parameter.grad is not None and divisor:
            parameter.grad.div_(divisor)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the Euclidean norm of all gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
