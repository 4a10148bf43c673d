"""Checkpoints that a failing write cannot damage: ``best.ckpt`` and ``last.ckpt``."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from affectgpt_r1.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Local checkpoint files, each either the old one or the new one, whole.

    A checkpoint is written to ``<name>.partial`` beside its place, flushed to disk and moved over the old one. If that
    fails the old file stays and the partial one is removed. Files are loaded with ``weights_only=True``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: If the file cannot be written; the previous one is intact.
        """
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, partial)
            os.replace(partial, target)
            _flush_folder(target.parent)
        except (OSError, RuntimeError) as error:
            if cause := _os_error(error):
                raise CheckpointError(_cannot_write(target, cause)) from error
            raise
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; ``weights_only`` other than True is refused, since it would run code from the file.

        Raises:
            CheckpointError: If there is no such file, it is damaged, or it holds more than tensors and plain values.
        """
        if weights_only is False:
            raise CheckpointError(f"{path}: checkpoints are loaded with weights_only=True; leave the option out")
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such checkpoint; check `ckpt_path`")
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path}: damaged or no checkpoint; take another, such as best.ckpt")
        try:
            loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path}: damaged, or made by something other than this package ({error}); take another checkpoint"
            ) from error
        return loaded


class _OneCheckpoint(ModelCheckpoint):
    """A checkpoint that is replaced whole, in a folder that a resumed run finds as it left it."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning warns of any folder that is not empty; of a resumed run that is as it should be."""
        kept = self.save_top_k
        self.save_top_k = 0 if trainer.ckpt_path is not None else kept  # with 0 Lightning would write nothing there
        try:
            super().setup(trainer, pl_module, stage)
        finally:
            self.save_top_k = kept


class BestCheckpoint(_OneCheckpoint):
    """Keeps the checkpoint of the best validation as ``<folder>/best.ckpt``.

    Args:
        folder: Where it is written.
        monitor: Log name of the figure to judge by.
        mode: Whether more or less of it is better.
    """

    def __init__(self, folder: str | Path, monitor: str = "val/f1", mode: Literal["min", "max"] = "max") -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )


class LastCheckpoint(_OneCheckpoint):
    """Keeps the newest state as ``<folder>/last.ckpt``, whatever its score; ``ckpt_path=last`` finds it.

    It is written every N steps, after the last step of an epoch or of the run, and after each validation, for it holds
    the score of the best checkpoint; so list it after :class:`BestCheckpoint`. It is not written when training has
    ended: Lightning then counts an epoch that ``max_steps`` cut short as complete, and a resumed run would skip the
    rest of it.

    Args:
        folder: Where it is written.
        every_n_steps: Optimiser steps between two writes.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 50) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            every_n_train_steps=every_n_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write if the step is due or training stops here."""
        step = trainer.global_step
        due = step % self._every_n_train_steps == 0 or step == trainer.max_steps
        if (due or trainer.is_last_batch or trainer.should_stop) and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the best score that this validation may have set."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", False):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def _write(checkpoint: dict[str, Any], partial: Path) -> None:
    with partial.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the move itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(error: BaseException | None) -> OSError | None:
    """Find the system's error: torch's zip writer reports a failed write as a RuntimeError around it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _cannot_write(target: Path, error: OSError) -> str:
    kept = "the previous checkpoint is intact" if target.is_file() else "there is no earlier one"
    return (
        f"{target}: the checkpoint cannot be written ({error.strerror or error}); {kept}. "
        "Free space or set `paths.outputs=` to another disk, then go on with `ckpt_path=last`"
    )
