"""Build a training run's loggers, Trainer and LightningModule from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from affectgpt_r1.callbacks.checkpoints import AtomicCheckpointIO
from affectgpt_r1.callbacks.exact_resume import ExactResume
from affectgpt_r1.callbacks.run_totals import RunTotals
from affectgpt_r1.callbacks.step_timer import StepTimer
from affectgpt_r1.callbacks.unreadable_clips import UnreadableClipsMonitor
from affectgpt_r1.config.compose import instantiate, resolved
from affectgpt_r1.config.instantiate import answer_sampling
from affectgpt_r1.config.run_record import wall_time_of
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.tracking.mlflow_logger import read_run_id
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.optim import OptimizerFactory

log = logging.getLogger(__name__)

NOT_STORED = ("ckpt_path", "overwrite", "paths", "logger", "callbacks")
"""Parts of the configuration that say where a run is kept and shown, not what it is."""


def stored_config(config: DictConfig) -> dict[str, Any]:
    """Return the part of a configuration that checkpoints carry, resolved."""
    return {key: value for key, value in resolved(config).items() if key not in NOT_STORED}


def build_loggers(config: DictConfig, *, resumed: bool) -> list[Any]:
    """Build the loggers; a resumed run continues the MLflow run that was cut."""
    if resumed and "mlflow" in config.logger and config.logger.mlflow.run_id is None:
        config.logger.mlflow.run_id = read_run_id(config.paths.run)
    return list((instantiate(config.logger, "logger") or {}).values())


def build_trainer(config: DictConfig, loggers: list[Any], totals: RunTotals) -> L.Trainer:
    """Build the Trainer.

    Raises:
        ConfigError: This machine or environment lacks what ``trainer`` asks for, such as a GPU; weights would train in
            half precision; or several processes are asked for, and no strategy.
    """
    options: dict[str, Any] = {}
    if config.match_wall_time is not None:
        seconds = wall_time_of(config.match_wall_time)
        log.info("match_wall_time: training ends after %.1f s, earlier parts of a resumed run included", seconds)
        options["max_time"] = {"seconds": seconds}
    callbacks = [totals, *(instantiate(config.callbacks, "callbacks") or {}).values()]
    # Of every run, whatever callbacks= says: how long steps take, and which clips were not read.
    if not any(isinstance(callback, StepTimer) for callback in callbacks):
        callbacks.insert(0, StepTimer(phases=False))
    if not any(isinstance(callback, UnreadableClipsMonitor) for callback in callbacks):
        callbacks.append(UnreadableClipsMonitor(config.paths.run, config.data.max_unreadable_fraction))
    plugins = [AtomicCheckpointIO()]
    try:
        trainer: L.Trainer = instantiate(
            config.trainer, "trainer", logger=loggers or False, callbacks=callbacks, plugins=plugins, **options
        )
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException):
            raise
        raise ConfigError(
            f"trainer: {error.__cause__} (trainer=cpu runs anywhere; with trainer.accelerator=cpu, trainer=ddp and "
            "trainer=fsdp do, too)"
        ) from error
    if trainer.precision in ("16-true", "bf16-true"):
        raise ConfigError(
            f"trainer.precision={trainer.precision}: what trains would lose its small steps; use bf16-mixed or 32-true"
        )
    if trainer.world_size > 1 and not isinstance(config.trainer.get("strategy"), DictConfig):
        raise ConfigError(
            f"trainer.devices={config.trainer.devices}: several processes need one of trainer=ddp or fsdp; "
            "on CPUs with trainer.accelerator=cpu trainer.precision=32-true"
        )
    return trainer


def build_module(config: DictConfig, policy: Any, stage: Any, lexicon: Any, length: dict[str, int]) -> AffectModule:
    """Build the module."""
    optimizers = OptimizerFactory(
        instantiate(config.optim.optimizer, "optim"),
        instantiate(config.optim.scheduler, "optim", **length),
        config.optim.weight_decay,
    )
    return AffectModule(policy, stage, lexicon, optimizers, answer_sampling=answer_sampling(config), seed=config.seed)


def add_exact_resume(trainer: L.Trainer, config: Mapping[str, Any], **stored: Any) -> None:
    """Add the callback without which a resumed run would differ, whatever ``callbacks=`` says.

    Args:
        trainer: Changed; the callback precedes those that read what it restores.
        config: The part of the resolved configuration that checkpoints carry.
        **stored: See :class:`~affectgpt_r1.callbacks.exact_resume.ExactResume`.
    """
    trainer.callbacks.insert(0, ExactResume(config, **stored))  # type: ignore[attr-defined]  # set by a connector
