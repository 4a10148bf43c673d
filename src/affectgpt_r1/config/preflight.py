"""Checks before the first step of what would otherwise fail hours after a run's start."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from affectgpt_r1.callbacks.checkpoints import direction_of
from affectgpt_r1.data.collate import collate
from affectgpt_r1.data.layouts.manifest import ManifestRow, listing
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError, DataError, OnFault, refuse
from affectgpt_r1.policy.questions import LABEL_KINDS
from affectgpt_r1.training.base import BufferedStage, Stage
from affectgpt_r1.training.optim import NEEDS_A_LENGTH
from affectgpt_r1.training.validation import validation_names
from affectgpt_r1.types import Clip

if TYPE_CHECKING:
    import lightning as L

    from affectgpt_r1.data.datamodule import ClipDataModule
    from affectgpt_r1.policy.policy import MultimodalPolicy

log = logging.getLogger(__name__)

SLACK = 384  # tokens that a prompt has besides its subtitle, and an answer besides its reason; more than any of ours


def check_settings(config: DictConfig) -> None:
    """Refuse a schedule without a length, and a monitored metric of unknown direction, before anything is loaded."""
    for key, monitor, mode in _monitors(config):
        if key == "stage.monitor":
            direction_of(monitor, mode)
    scheduler, trainer = config.optim.scheduler, config.trainer
    total_steps = scheduler.get("total_steps")
    if total_steps is None:  # a schedule that counts otherwise
        return
    endless = trainer.max_steps == -1 and trainer.max_epochs == -1
    if total_steps < 1 and endless and scheduler.get("min_lr_ratio", 0.0) < 1:
        raise ConfigError(f"optim.scheduler.total_steps={total_steps}: {NEEDS_A_LENGTH}")
    if 0 < total_steps < scheduler.get("warmup_steps", 0):
        log.warning(
            "optim.scheduler.warmup_steps=%d is longer than the run of %d steps: the learning rate stays below "
            "optim.optimizer.lr",
            scheduler.warmup_steps,
            total_steps,
        )


def check_trains(config: DictConfig) -> None:
    """Refuse ``train=false`` where nothing would be tested, or other weights than those that are named."""
    if config.train:
        return
    if not config.evaluate_after:
        raise ConfigError("train=false only answers the test clips: give evaluate_after=true as well")
    if config.ckpt_path is not None:
        raise ConfigError(
            f"train=false tests the weights of init_from, and ckpt_path={config.ckpt_path} continues a training run: "
            "give only one"
        )


def check_prompts(policy: MultimodalPolicy, data: ClipDataModule, *, learns_targets: bool) -> None:
    """Refuse clips whose prompt, with the answer if ``learns_targets``, is longer than the model's positions.

    Raises:
        DataError: Names file, row and clip.
    """
    # A token has at least one byte, so only rows with many bytes need be tokenized.
    positions: int = policy.language_model.config.max_position_embeddings
    files = data.files
    splits = [(data.splits.train, files.train_labels), (data.splits.validation, files.validation_labels)]
    for rows, file in [*splits, (data.splits.supervised, files.supervised_labels)]:
        for row in rows:
            if len(row.subtitle.encode()) + len(row.reason.encode()) + SLACK <= positions:
                continue
            clip = Clip(row.name, row.subtitle, row.labels, row.reason, data.media.modalities)
            batch = collate([dataclasses.replace(clip, annotations=row.annotations)])
            lengths = [int(policy.encode_targets(batch).mask.sum())] if learns_targets else None
            for reason in policy.too_long(batch, lengths).values():
                raise DataError(f"{data.root / (file or files.train_labels)}: row {row.row}: {reason}")


def check_data(config: DictConfig, stage: Stage, data: ClipDataModule, lexicon: Lexicon) -> None:
    """Refuse labels that no wheel knows, a validation without clips, and a monitored metric that it will not log.

    Raises:
        ConfigError: Names the key of the monitored metric, and the names that there will be.
        DataError: Names the label file and the lexicon, or the key that gives validation clips.
    """
    check_validation(data)
    rows, kind = data.splits.validation, config.prompt.kind
    if stage.answers and kind in ("", *LABEL_KINDS):
        check_labels(data, lexicon, tests=config.evaluate_after)
    targets, annotations = [row.labels for row in rows], [row.annotations for row in rows]
    names = validation_names(stage, kind, targets, annotations, lexicon)
    for key, monitor, _ in _monitors(config):
        alarm = key.startswith("callbacks.") and not hasattr(stage, "rewards")  # watches stages with a reward only
        if monitor in names or monitor.startswith("train/") or (alarm and "reward_hacking" in key):
            continue
        raise ConfigError(f"{key}={monitor} will not be logged; validation of this run logs {', '.join(sorted(names))}")


def schedule_length(config: DictConfig, trainer: L.Trainer, stage: Stage, data: ClipDataModule) -> dict[str, int]:
    """Return ``total_steps`` where the run's length is given in epochs, to build the schedule with; else nothing.

    Raises:
        ConfigError: No validation would take place: ``trainer.val_check_interval`` or ``check_val_every_n_epoch`` is
            longer than an epoch, or than the run.
    """
    # Not trainer.estimated_stepping_batches, which makes a resumed run forget its loader's state.
    batches = data.num_train_batches(trainer.world_size, stage.schedule if isinstance(stage, BufferedStage) else None)
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    _check_epochs(trainer, batches)
    total_steps = config.optim.scheduler.get("total_steps")
    if trainer.max_epochs in (None, -1) or total_steps is None or total_steps not in (-1, config.trainer.max_steps):
        return {}
    steps = trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)
    return {"total_steps": steps if total_steps < 1 else min(steps, total_steps)}


def _monitors(config: DictConfig) -> list[tuple[str, str, str]]:
    """Return key, metric and mode of everything that monitors a metric."""
    monitors = [("stage.monitor", str(config.stage.monitor), str(config.stage.mode))]
    for name, callback in (config.get("callbacks") or {}).items():
        monitor = callback.get("monitor") if isinstance(callback, DictConfig) else None
        if monitor is not None and not (name == "best_checkpoint" and monitor == config.stage.monitor):
            monitors.append((f"callbacks.{name}.monitor", str(monitor), str(callback.get("mode", "auto"))))
    return monitors


def check_validation(data: ClipDataModule) -> None:
    """Refuse a data folder without a clip to validate on."""
    if not data.splits.validation:
        raise DataError(
            f"{data.root / data.files.train_labels}: data.val_fraction={data.val_fraction} leaves no clip to "
            "validate on, so there would be no best.ckpt; raise it, or name a file by data.validation_labels"
            if data.files.validation_labels is None
            else f"{data.root / data.files.validation_labels}: there is no clip to validate on"
        )


def check_labels(data: ClipDataModule, lexicon: Lexicon, *, tests: bool, on_fault: OnFault = refuse) -> None:
    """Refuse a split whose labels no wheel knows, and warn of those that are unknown in part.

    Args:
        data: Its ``splits`` are judged.
        lexicon: Has the wheels.
        tests: Judge the test split, too.
        on_fault: See :data:`~affectgpt_r1.errors.OnFault`.
    """
    splits, files = data.splits, data.files
    parts: list[tuple[str, Sequence[ManifestRow]]] = [(files.train_labels, splits.train)]
    parts.append((files.validation_labels or files.train_labels, splits.validation))
    if tests and files.test_labels:
        parts.append((files.test_labels, splits.test))
    for name, rows in parts:
        if not rows:
            continue
        words = {word for row in rows for word in row.labels}
        unknown = sorted(word for word in words if word not in lexicon)
        if len(unknown) == len(words):
            on_fault(
                DataError(
                    f"{data.root / name}: no label of its {len(rows)} clips is on a wheel of the {lexicon.name} "
                    "lexicon, so no answer can be scored; give labels in the lexicon's language, or another "
                    "emotion.lexicon="
                )
            )
            continue
        lost = sum(all(word not in lexicon for word in row.labels) for row in rows)
        if unknown:
            log.warning(
                "%s: %d of %d words (%s) are on no wheel of the %s lexicon; %d of %d clips have no other and count for "
                "nothing in F1",
                data.root / name,
                len(unknown),
                len(words),
                listing(unknown),
                lexicon.name,
                lost,
                len(rows),
            )


def _check_epochs(trainer: L.Trainer, batches: int) -> None:
    """Refuse validations per epoch that never come."""
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if every is None:
        return  # BestCheckpoint asks for one at the end
    if isinstance(interval, int) and interval > batches:
        raise ConfigError(
            f"trainer.val_check_interval={interval} is longer than an epoch of {batches} batches: lower it, or count "
            "over epochs by trainer.check_val_every_n_epoch=null"
        )
    epochs = [trainer.max_epochs] if trainer.max_epochs not in (None, -1) else []
    if trainer.max_steps > 0:
        epochs.append(trainer.max_steps // math.ceil(batches / trainer.accumulate_grad_batches))
    if epochs and min(epochs) < every:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every}: the run ends after {min(epochs)} full epochs, before its first "
            "validation; lower it, or set it to null and trainer.val_check_interval to a number of batches"
        )
