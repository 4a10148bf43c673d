"""One training run: take its folder, begin or resume, fit, answer the test clips, write ``run.json``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig

from affectgpt_r1.callbacks.fail_together import processes_started
from affectgpt_r1.callbacks.run_totals import RunTotals
from affectgpt_r1.callbacks.unreadable_clips import add_unreadable
from affectgpt_r1.config.build_trainer import (
    add_exact_resume,
    build_loggers,
    build_module,
    build_trainer,
    stored_config,
)
from affectgpt_r1.config.compose import instantiate_stage, resolved
from affectgpt_r1.config.initial_policy import settle_settings
from affectgpt_r1.config.instantiate import (
    build_data,
    build_policy,
    checkpoint_to_resume,
    encode_clips,
    rollout_client,
    take_exported_model,
)
from affectgpt_r1.config.preflight import check_data, check_prompts, check_settings, check_trains, schedule_length
from affectgpt_r1.config.prepare_process import prepare_process
from affectgpt_r1.config.resume import Resumed, check_content, read_resumed
from affectgpt_r1.config.run_folder import (
    began_here,
    begin,
    check_may_train,
    config_hash,
    is_outdated,
    log_file,
    look_up,
    recorded_metrics,
)
from affectgpt_r1.config.run_lock import owned
from affectgpt_r1.config.run_record import write_record
from affectgpt_r1.config.value_ranges import check_ranges
from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.distributed.collectives import destroy_process_group_on_exit
from affectgpt_r1.distributed.fsdp import ShardedStrategy
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.engine.served import ServedEngine
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.checkpoint import check_there, read_checkpoint
from affectgpt_r1.tracking.mlflow_logger import Terminated, mlflow_loggers, status_of
from affectgpt_r1.tracking.run_status import tracked_run

log = logging.getLogger(__name__)

OUTDATED = "outdated"
"""Of ``overwrite=``: replace a run whose start was trained again since, and no other."""

EvaluateTestSplit = Callable[..., dict[str, float]]
"""See :func:`affectgpt_r1.evaluation.evaluate_policy.evaluate_test_split`, which this package may not import."""


def run_or_resume(config: DictConfig, evaluate_test_split: EvaluateTestSplit) -> dict[str, float]:
    """Take the run's folder, and train, unless the run in it is this one and has ended.

    Args:
        config: The composed ``configs/train.yaml``. An unfinished run of this configuration continues from its last
            checkpoint.
        evaluate_test_split: Answers the test clips, with ``evaluate_after``.

    Returns:
        The last logged metrics, with ``best``, the best value of the monitored one, and with ``evaluate_after`` the
        metrics of the test clips, which the first process alone answers and records.

    Raises:
        ConfigError: The folder holds another run, or another process works in it.
        SystemExit: With code 130 after Ctrl-C.
    """
    check_ranges(config)
    if config.overwrite not in (True, False, OUTDATED):
        raise ConfigError(f"overwrite={config.overwrite} is unknown; give true, false or {OUTDATED}")
    check_trains(config)
    prepare_process(config)  # before the stage, whose heads draw their first weights
    folder = Path(config.paths.run)
    config.paths.run = str(folder)  # what the command line made of it holds in every process that reads it later
    take_exported_model(config)  # before settings are compared or logged
    _check_files(config)
    config = settle_settings(config)
    # Lightning's own launcher numbers the processes of each node from 0 until the group is formed.
    is_first = getattr(rank_zero_only, "rank", 0) == 0 and int(os.environ.get("NODE_RANK") or 0) == 0
    with ExitStack() as stack:
        if is_first:  # other processes share the first one's folder, and read what it holds alike
            stack.enter_context(owned(folder))
            stack.enter_context(log_file(folder))
        if config.overwrite == OUTDATED:
            config.overwrite = False
            config.overwrite = is_outdated(look_up(config))
        found = look_up(config)
        if began_here(config, found):
            config.ckpt_path = None  # the command began this run from there; now it continues, or has ended
        check_may_train(config, found)
        begins = config.ckpt_path is not None or config.overwrite or config.debugging or found.state == "new"
        if not begins and found.state == "finished":
            log.info("%s holds this run, finished: nothing to do; overwrite=true trains it again", folder)
            return recorded_metrics(folder)
        if not begins:
            log.info("%s holds this run, unfinished: it continues from its last checkpoint", folder)
            config.ckpt_path = "last"
        try:
            return _run(config, evaluate_test_split)
        except (KeyboardInterrupt, SystemExit) as stop:
            if status_of(stop) != "KILLED":
                raise
            if is_first:
                _say_how_to_continue(config)
            if isinstance(stop, Terminated):
                raise
            raise SystemExit(130) from None  # Ctrl-C, of which Lightning makes exit code 1


def _run(config: DictConfig, evaluate_test_split: EvaluateTestSplit) -> dict[str, float]:
    """Build everything from the configuration, fit, and record what came of it."""
    totals = RunTotals()
    resumed = _read_checkpoint(config)
    trains = config.train
    if trains:
        check_settings(config)
    stage, lexicon = instantiate_stage(config.stage) if trains else None, load_lexicon(config.emotion.lexicon)
    loggers = build_loggers(config, resumed=resumed is not None)
    # Before all else that takes long: the Trainer knows what the machine lacks, and which process this is.
    trainer = build_trainer(config, loggers, totals)
    with tracked_run(loggers), destroy_process_group_on_exit():
        for logger in mlflow_loggers(loggers):
            logger.log_config(resolved(config))
            if trainer.is_global_zero:
                log.info("MLflow, by `make mlflow`: %s", logger.link)
        if resumed is not None and trainer.is_global_zero:
            _log_changes(resumed, loggers)
        is_sharded = isinstance(trainer.strategy, ShardedStrategy)
        client = rollout_client(config, sharded=is_sharded) if trains else None  # before weights are loaded
        policy = build_policy(config, trainer.strategy.root_device)
        if client is not None:
            policy.engine = ServedEngine(policy.engine, policy.language_model, client, Path(config.rollout.folder))
        with totals.phase("data_seconds"):
            data = build_data(config)
            length = {}
            if stage is not None:
                check_data(config, stage, data, lexicon)
                learns_targets = getattr(stage, "rewards", None) is None or getattr(stage, "mu", None) is not None
                check_prompts(policy, data, learns_targets=learns_targets and stage.answers)
                length = schedule_length(config, trainer, stage, data)
        content = _content_digests(data, lexicon)
        if resumed is not None:
            check_content(resumed, content, resolved(config))
        for logger in mlflow_loggers(loggers):
            logger.log_data(data.digest(), config.synthetic, files=data.label_files())
        with processes_started(trainer, wanted=trains):  # now that all mistakes are found, to encode together
            with totals.phase("encoding_seconds"):
                skipped = encode_clips(data, policy, trainer.strategy.root_device)
            if trainer.is_global_zero:
                begin(config)  # not earlier: overwrite=true removes a run here
                for logger in mlflow_loggers(loggers):
                    logger.keep_run_id()
                    if stage is not None and stage.answers and not policy.template.kind:
                        prompt = policy.template.prompt("{{subtitle}}", data.media.modalities)
                        logger.log_prompt(f"affectgpt-r1-{config.prompt.name}", prompt)
            with totals.phase("fit_seconds"):
                if trains:
                    module = build_module(config, policy, stage, lexicon, length)
                    changes = () if resumed is None else resumed.history
                    add_exact_resume(trainer, stored_config(config), content=content, config_changes=changes)
                    add_unreadable(trainer, skipped)
                    trainer.fit(module, datamodule=data, ckpt_path=None if resumed is None else resumed.path)
                    _log_best_checkpoint(config, trainer, loggers)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if config.evaluate_after:
            with totals.phase("test_seconds"):
                metrics |= evaluate_test_split(config, policy, data, trainer, loggers)
    if config.debugging or not trainer.is_global_zero:
        return metrics
    history = () if resumed is None else resumed.history
    is_repeated = resumed is not None and resumed.step == trainer.global_step
    # Last, when MLflow says FINISHED: with its record a run counts as finished, and a next start would repair nothing.
    return write_record(
        config, trainer, totals, metrics, history, config_hash=config_hash(config), is_repeated=is_repeated
    )


def _log_best_checkpoint(config: DictConfig, trainer: L.Trainer, loggers: list[Any]) -> None:
    """List the best checkpoint among the MLflow run's logged models."""
    best, tracked = Path(config.paths.run) / "checkpoints" / "best.ckpt", mlflow_loggers(loggers)
    if tracked and trainer.is_global_zero and best.is_file() and not config.debugging:
        step = int(read_checkpoint(best, mmap=True)["global_step"])
        for logger in tracked:
            logger.log_checkpoint(best, step)


def _check_files(config: DictConfig) -> None:
    """Look at all files that a run starts from, before anything is logged, loaded or encoded."""
    if config.evaluate_after and config.data.test_labels is None:
        raise ConfigError("evaluate_after=true answers the test clips, but data.test_labels names none")
    for start in filter(None, (config.init_from, config.encoders_from)):
        check_there(start)


def _read_checkpoint(config: DictConfig) -> Resumed | None:
    """Read what ``ckpt_path`` names, and compare the settings of its run with today's."""
    path = checkpoint_to_resume(config)
    return None if path is None else read_resumed(path, stored_config(config))


def _log_changes(resumed: Resumed, loggers: list[Any]) -> None:
    """Log which settings changed since the checkpoint; MLflow, whose params never change, gets a tag."""
    for change in resumed.changes:
        log.info("Resumed at step %d with %s", resumed.step, change)
    if resumed.history:
        for logger in mlflow_loggers(loggers):
            logger.log_config_changes(resumed.history)


def _content_digests(data: ClipDataModule, lexicon: Lexicon) -> dict[str, str]:
    """Return digests of the label files and the lexicon by the key that names them; test clips do not train."""
    files = {
        "data.cues_file" if name == "cues" else f"data.{name}": digest for name, digest in data.file_digests().items()
    }
    return {**files, "emotion.lexicon": lexicon.digest}


def _say_how_to_continue(config: DictConfig) -> None:
    last = Path(config.paths.run) / "checkpoints" / "last.ckpt"
    if config.debugging:
        log.warning("Stopped: a debug run begins again each time")
    elif not last.is_file():
        log.warning("Stopped before the first checkpoint: the same command begins again")
    elif config.overwrite:
        log.warning("Stopped: the same command without overwrite=true continues from %s", last)
    elif config.ckpt_path not in (None, "last") and Path(config.ckpt_path).parent == last.parent:
        log.warning(
            "Stopped: the same command with ckpt_path=last in place of ckpt_path=%s continues", config.ckpt_path
        )
    else:
        log.warning("Stopped: the same command continues from %s, and so does ckpt_path=last", last)
