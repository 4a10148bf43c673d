"""Checkpoints that a failing write cannot damage: ``best.ckpt`` and ``last.ckpt``."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from affectgpt_r1.errors import CheckpointError, ConfigError, TrainingError, WriteError
from affectgpt_r1.io.files import os_error_in, remove_partial, replacing
from affectgpt_r1.policy.checkpoint import first_sentence
from affectgpt_r1.policy.integrity import check_crcs, load_verified

RISING = ("f1", "precision", "recall", "accuracy", "waf", "war", "uar", "format_rate", "reward")
"""Last parts of log names of which more is better."""

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoint files atomically; load them with ``weights_only=True`` if their CRCs are right."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: If the file cannot be written; the previous one is intact.
        """
        _write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

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
        try:
            loaded: dict[str, Any] = load_verified(path, map_location=map_location)
        except Exception as error:
            raise CheckpointError(
                f"{path}: damaged, or made by something other than this package ({first_sentence(error)}); take "
                "another checkpoint, such as best.ckpt"
            ) from error
        return loaded


class _OneCheckpoint(ModelCheckpoint):
    """A checkpoint that is replaced atomically, in a folder that may hold the one of a resumed run."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove what killed processes left half-written: the run has locked the folder."""
        if trainer.is_global_zero:
            remove_partial(Path(str(self.dirpath)))
        kept = self.save_top_k
        # With 0 Lightning does not warn that the folder is not empty: of a resumed run that is as it should be.
        self.save_top_k = 0 if trainer.ckpt_path is not None else kept
        try:
            super().setup(trainer, pl_module, stage)
        finally:
            self.save_top_k = kept


class BestCheckpoint(_OneCheckpoint):
    """Keep the checkpoint of the best validation as ``<folder>/best.ckpt``.

    A run that ends before its first validation is due validates after its last batch, so that there is a best
    checkpoint. A resumed run reads the best score from the file itself, so neither a folder that was moved nor a resume
    from an earlier checkpoint loses it. Where the run continues in another folder, the ``best.ckpt`` next to the
    checkpoint that it resumes from is copied.

    Args:
        folder: Where it is written.
        monitor: Log name of the metric to judge by.
        mode: Whether more or less of it is better; ``auto`` decides by the name, see :func:`direction_of`.

    Raises:
        ConfigError: ``mode`` contradicts the metric, or ``auto`` cannot tell.
    """

    def __init__(
        self, folder: str | Path, monitor: str = "val/f1", mode: Literal["auto", "min", "max"] = "auto"
    ) -> None:
        mode = direction_of(monitor, mode)
        self._num_not_finite = 0
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Say whether the score is the best so far; Lightning would keep a first NaN, and an infinity for ever."""
        if current is not None and not bool(torch.isfinite(current)):
            self._num_not_finite += 1
            log.warning("Step %d: %s is %s, so this cannot be best.ckpt", trainer.global_step, self.monitor, current)
            return False
        return super().check_monitor_top_k(trainer, current)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask for a validation after the run's last batch where there has been none."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.best_model_score is None and _is_last_batch_of_run(trainer):
            trainer.should_stop = True  # the Trainer validates before it stops; the run ends here in any case

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to end normally when no validation had a score, also where a resumed run trains no further.

        Raises:
            TrainingError: Every score was NaN or infinite; the weights are in ``last.ckpt``.
        """
        if self._num_not_finite and self.best_model_score is None:
            raise TrainingError(
                f"{self.monitor} was NaN or infinite in all {self._num_not_finite} validations, so there is no "
                "best.ckpt; the weights are in last.ckpt. Monitor another metric by stage.monitor=, or check the "
                "validation clips' labels"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's, and how many scores were not finite."""
        return {**super().state_dict(), "num_not_finite": self._num_not_finite}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Replace the stored state, whose paths may be of another folder, by that of ``best.ckpt``.

        Raises:
            CheckpointError: The best validation so far was judged by another metric.
        """
        resumed_from = Path(str(trainer.ckpt_path))
        self._check_comparable(checkpoint, resumed_from)
        states = checkpoint.get("callbacks", {})
        known = states.pop(self.state_key, None)
        self._num_not_finite = 0 if known is None else known.get("num_not_finite", 0)
        best = Path(str(self.dirpath)) / "best.ckpt"
        earlier = resumed_from.with_name(best.name)
        if not best.is_file() and earlier.is_file() and trainer.is_global_zero:
            _copy(earlier, best)
        source = best if best.is_file() else earlier
        if not source.is_file():
            if known is not None and known["best_model_score"] is not None:
                log.warning("No %s: its score is forgotten, the best of the validations to come is kept", best)
            return
        score = self._check_comparable(_read_state(source), source)
        if score is not None:
            states[self.state_key] = self._state(best, score)

    def _state(self, best: Path, score: torch.Tensor) -> dict[str, Any]:
        """Return what Lightning's :meth:`load_state_dict` takes."""
        path = str(best)
        return {
            "monitor": self.monitor,
            "dirpath": self.dirpath,
            "best_model_path": path,
            "best_model_score": score,
            "current_score": score,
            "best_k_models": {path: score},
            "kth_best_model_path": path,
            "kth_value": score,
            "last_model_path": "",
        }

    def _check_comparable(self, checkpoint: dict[str, Any], path: Path) -> torch.Tensor | None:
        """Return the best score in a checkpoint, None where it has none.

        Raises:
            CheckpointError: It is one of another metric, or of another direction.
        """
        for key, state in checkpoint.get("callbacks", {}).items():
            if not key.startswith(BestCheckpoint.__name__) or state["best_model_score"] is None:
                continue
            mode = "min" if "'mode': 'min'" in key else "max"
            if (state["monitor"], mode) != (self.monitor, self.mode):
                raise CheckpointError(
                    f"stage.monitor={self.monitor} stage.mode={self.mode}: the best validation in {path} was judged by "
                    f"{state['monitor']} ({mode}), which cannot be compared. Resume with stage.monitor="
                    f"{state['monitor']} stage.mode={mode}, or start a new run from its weights by init_from={path}"
                )
            score: torch.Tensor = state["best_model_score"]
            return score
        return None


def direction_of(monitor: str, mode: str = "auto") -> Literal["min", "max"]:
    """Return whether less or more of a logged metric is better.

    Args:
        monitor: Log name, such as ``val/loss``.
        mode: ``auto`` decides by the name: losses fall, the scores of answers rise.

    Raises:
        ConfigError: ``mode`` contradicts the name, is unknown, or is ``auto`` for a metric of which neither more nor
            less is better in itself.
    """
    if mode not in ("auto", "min", "max"):
        raise ConfigError(f"stage.mode={mode} is unknown; choose among auto, min, max")
    name = monitor.removesuffix("_step").removesuffix("_epoch").rpartition("/")[2]
    known: Literal["min", "max"] | None = "min" if name.endswith("loss") else "max" if name in RISING else None
    if known is None and mode == "auto":
        raise ConfigError(f"stage.monitor={monitor}: say whether less or more of it is better by stage.mode=min or max")
    if known is not None and mode not in ("auto", known):
        raise ConfigError(
            f"stage.mode={mode} would keep the worst checkpoint: of {monitor} {'less' if known == 'min' else 'more'} "
            "is better; leave stage.mode=auto"
        )
    return known or ("min" if mode == "min" else "max")


class LastCheckpoint(_OneCheckpoint):
    """Keep the newest state as ``<folder>/last.ckpt``, whatever its score; ``ckpt_path=last`` finds it.

    It is written every N steps, after the last step of an epoch or of the run, and after each validation. It holds the
    score of the best checkpoint, so list it after :class:`BestCheckpoint`.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 50) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            every_n_train_steps=every_n_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: which file is the newest does not depend on the past, and its folder may have moved."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing, also of older checkpoints."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write if the step is due or training stops here."""
        # Never in on_train_end: Lightning then counts an epoch that max_steps cut short as complete, and a resumed run
        # would skip the rest of it.
        step = trainer.global_step
        due = step % self._every_n_train_steps == 0 or step == trainer.max_steps
        if not (due or trainer.is_last_batch or trainer.should_stop) or self._should_skip_saving_checkpoint(trainer):
            return
        # Not before a validation: a checkpoint from there would be resumed after it, without its score. A run that is
        # killed repeats the steps since the last file, and validates.
        if not _validates_next(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the best score that this validation may have set."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", False):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def _validates_next(trainer: pl.Trainer) -> bool:
    """Say whether the Trainer validates right after this batch, by its own rule."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)


def _is_last_batch_of_run(trainer: pl.Trainer) -> bool:
    """Say whether ``max_steps`` or ``max_epochs`` ends the run after this batch."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return True
    last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return last_epoch and bool(trainer.is_last_batch)


def _write_atomically(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a checkpoint next to its target, and move it there.

    Raises:
        CheckpointError: It cannot be written; the previous one is intact.
    """
    try:
        with replacing(target) as partial, partial.open("wb") as file:
            write(file)
    except WriteError as error:
        raise CheckpointError(_cannot_write(target, os_error_in(error))) from error


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as original:
        _write_atomically(target, lambda file: shutil.copyfileobj(original, file))


def _read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint whose tensors stay in the file until they are used.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        check_crcs(path)
        state: dict[str, Any] = load_verified(path, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: damaged, so its score cannot be compared; move it away, and the best of the validations to come "
            "is kept"
        ) from error
    return state


def _cannot_write(target: Path, error: OSError | None) -> str:
    """Return the message; another disk needs the outputs folder, with best.ckpt and what the run starts from."""
    kept = "the previous checkpoint is intact" if target.is_file() else "there is no earlier one"
    can_resume = (target.parent / "last.ckpt").is_file()
    reason = (error and error.strerror) or error
    return (
        f"{target}: the checkpoint cannot be written ({reason}); {kept}. Free space there, or move "
        "the outputs folder to another disk and name that by `paths.outputs=`; then "
        + ("resume with `ckpt_path=last`" if can_resume else "run the command again")
    )
