"""Train one stage: ``python -m affectgpt_r1.cli.train experiment=sft``."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from affectgpt_r1.config.compose import CONFIGS, clear_errors, run_with_clear_errors

if TYPE_CHECKING:
    import lightning as L

    from affectgpt_r1.callbacks.run_totals import RunTotals
    from affectgpt_r1.config.resume import Resumed
    from affectgpt_r1.data.datamodule import ClipDataModule
    from affectgpt_r1.emotion.wheels import Lexicon
    from affectgpt_r1.policy.policy import MultimodalPolicy
    from affectgpt_r1.training.module import AffectModule

log = logging.getLogger(__name__)

OUTDATED = "outdated"
"""Of ``overwrite=``: replace a run whose start was trained again since, and no other."""

NOT_STORED = ("ckpt_path", "overwrite", "paths", "logger", "callbacks")
"""Parts of the configuration that say where a run is kept and shown, not what it is."""


def train(config: DictConfig) -> dict[str, float]:
    """Take the run's folder, and train, unless the run that is there is this one and has ended.

    Args:
        config: The composed ``configs/train.yaml``. An unfinished run of this configuration continues from its last
            checkpoint.

    Returns:
        The last logged metrics, with ``best``, the best value of the monitored one, and with ``evaluate_after`` the
        metrics of the test clips, which the first process alone answers and records.

    Raises:
        ConfigError: The folder holds another run, or another process works in it.
        SystemExit: With code 130 after Ctrl-C.
    """
    from lightning_utilities.core.rank_zero import rank_zero_only

    from affectgpt_r1.config.initial_policy import settle_settings
    from affectgpt_r1.config.instantiate import prepare_process, take_exported_model
    from affectgpt_r1.config.run_folder import (
        began_here,
        check_may_train,
        is_outdated,
        log_file,
        look_up,
        recorded_metrics,
    )
    from affectgpt_r1.config.run_lock import owned
    from affectgpt_r1.config.value_ranges import check_ranges
    from affectgpt_r1.errors import ConfigError
    from affectgpt_r1.tracking.mlflow_logger import Terminated, status_of

    check_ranges(config)
    if config.overwrite not in (True, False, OUTDATED):
        raise ConfigError(f"overwrite={config.overwrite} is unknown; give true, false or {OUTDATED}")
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
            return _train(config)
        except (KeyboardInterrupt, SystemExit) as stop:
            if status_of(stop) != "KILLED":
                raise
            if is_first:
                _say_how_to_go_on(config)
            if isinstance(stop, Terminated):
                raise
            raise SystemExit(130) from None  # Ctrl-C, of which Lightning makes exit code 1


def _say_how_to_go_on(config: DictConfig) -> None:
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


def _train(config: DictConfig) -> dict[str, float]:
    """Build everything from the configuration, fit, and record what came of it."""
    from affectgpt_r1.callbacks.fail_together import processes_started
    from affectgpt_r1.callbacks.run_totals import RunTotals
    from affectgpt_r1.config.compose import instantiate_stage, resolved
    from affectgpt_r1.config.instantiate import build_data, build_policy, encode_clips
    from affectgpt_r1.config.preflight import check_data, check_prompts, check_settings, schedule_length
    from affectgpt_r1.config.resume import check_content
    from affectgpt_r1.config.run_folder import begin, config_hash
    from affectgpt_r1.config.run_record import write_record
    from affectgpt_r1.distributed.collectives import destroy_process_group_on_exit
    from affectgpt_r1.emotion.lexicon import load_lexicon
    from affectgpt_r1.tracking.mlflow_logger import mlflow_loggers
    from affectgpt_r1.tracking.run_status import tracked_run

    totals = RunTotals()
    resumed = _checkpoint_to_resume(config)
    trains = config.trainer.max_steps != 0  # 0: the policy is tested as it is
    if trains:
        check_settings(config)
    stage, lexicon = instantiate_stage(config.stage) if trains else None, load_lexicon(config.emotion.lexicon)
    loggers = _build_loggers(config, resumed=resumed is not None)
    # Before all else that takes long: the Trainer knows what the machine lacks, and which process this is.
    trainer = _build_trainer(config, loggers, totals)
    with tracked_run(loggers), destroy_process_group_on_exit():
        for logger in mlflow_loggers(loggers):
            logger.log_config(resolved(config))
        if resumed is not None and trainer.is_global_zero:
            _log_changes(resumed, loggers)
        policy = build_policy(config)
        with totals.phase("data_seconds"):
            data = build_data(config)
            length = {}
            if stage is not None:
                check_data(config, stage, data, lexicon)
                check_prompts(policy, data, learns_targets=getattr(stage, "rewards", None) is None and stage.answers)
                length = schedule_length(config, trainer, stage, data)
        content = _content_digests(data, lexicon)
        if resumed is not None:
            check_content(resumed, content)
        for logger in mlflow_loggers(loggers):
            logger.log_data(data.digest(), config.synthetic)
        with processes_started(trainer, wanted=trains):  # now, that all mistakes are found, to encode together
            with totals.phase("encoding_seconds"):
                skipped = encode_clips(data, policy, trainer.strategy.root_device)
            if trainer.is_global_zero:
                begin(config)  # not earlier: overwrite=true removes a run here
                for logger in mlflow_loggers(loggers):
                    logger.keep_run_id()
            with totals.phase("fit_seconds"):
                if trains:
                    changes = () if resumed is None else resumed.history
                    stored = {"content": content, "config_changes": changes}
                    module = _build_module(config, policy, stage, lexicon, skipped, length, **stored)
                    trainer.fit(module, datamodule=data, ckpt_path=None if resumed is None else resumed.path)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if config.evaluate_after:
            with totals.phase("test_seconds"):
                metrics |= _test_split_metrics(config, policy, data, trainer, loggers)
    if config.debugging or not trainer.is_global_zero:
        return metrics
    history = () if resumed is None else resumed.history
    is_repeated = resumed is not None and resumed.step == trainer.global_step
    # Last, when MLflow says FINISHED: with its record a run counts as finished, and a next start would repair nothing.
    return write_record(
        config, trainer, totals, metrics, history, config_hash=config_hash(config), is_repeated=is_repeated
    )


def _check_files(config: DictConfig) -> None:
    """Look at all files that a run starts from, before anything is logged, loaded or encoded."""
    from affectgpt_r1.errors import ConfigError
    from affectgpt_r1.policy.checkpoint import check_there

    if config.evaluate_after and config.data.test_labels is None:
        raise ConfigError("evaluate_after=true answers the test clips, but data.test_labels names none")
    for start in filter(None, (config.init_from, config.encoders_from)):
        check_there(start)


def _checkpoint_to_resume(config: DictConfig) -> Resumed | None:
    """Read what ``ckpt_path`` names, and compare what its run was told with today's settings."""
    from affectgpt_r1.config.compose import resolved
    from affectgpt_r1.config.instantiate import checkpoint_to_resume
    from affectgpt_r1.config.resume import read_resumed

    path = checkpoint_to_resume(config)
    return None if path is None else read_resumed(path, _stored_config(resolved(config)))


def _log_changes(resumed: Resumed, loggers: list[Any]) -> None:
    """Say which settings changed since the checkpoint was written; MLflow, whose params never change, gets a tag."""
    from affectgpt_r1.tracking.mlflow_logger import mlflow_loggers

    if not resumed.has_config:
        log.warning(
            "%s is of an older version and does not say what its run was told: today's optim.* is applied, other "
            "settings cannot be compared",
            resumed.path,
        )
    for change in resumed.changes:
        log.info("Resumed at step %d with %s", resumed.step, change)
    if resumed.history:
        for logger in mlflow_loggers(loggers):
            logger.log_config_changes(resumed.history)


def _stored_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that checkpoints carry."""
    return {key: value for key, value in config.items() if key not in NOT_STORED}


def _content_digests(data: ClipDataModule, lexicon: Lexicon) -> dict[str, str]:
    """Digests of the label files and the lexicon, by the key that names them; test clips do not train."""
    from affectgpt_r1.emotion.lexicon import lexicon_digest

    files = {"data.cues_file" if name == "cues" else f"data.{name}": one for name, one in data.file_digests().items()}
    return {**files, "emotion.lexicon": lexicon_digest(lexicon)}


def _test_split_metrics(
    config: DictConfig, policy: MultimodalPolicy, data: ClipDataModule, trainer: L.Trainer, loggers: list[Any]
) -> dict[str, float]:
    """The best weights' metrics on the test clips; the first process answers alone, the others return none."""
    from affectgpt_r1.config.instantiate import build_policy
    from affectgpt_r1.distributed.sharding import full_state_dict, is_sharded
    from affectgpt_r1.evaluation.evaluate_policy import evaluate_best_weights

    weights = full_state_dict(policy) if is_sharded(policy) else None
    if not trainer.is_global_zero:
        return {}
    if weights is not None:
        policy = build_policy(config)
        policy.load_state_dict(weights, strict=False)
    device, step = trainer.strategy.root_device, trainer.global_step
    return evaluate_best_weights(config, policy, data, loggers, device=device, step=step)


def _build_loggers(config: DictConfig, *, resumed: bool) -> list[Any]:
    """The loggers; a resumed run continues the MLflow run that was cut."""
    from affectgpt_r1.config.compose import instantiate
    from affectgpt_r1.tracking.mlflow_logger import read_run_id

    if resumed and "mlflow" in config.logger and config.logger.mlflow.run_id is None:
        config.logger.mlflow.run_id = read_run_id(config.paths.run)
    return list((instantiate(config.logger, "logger") or {}).values())


def _build_trainer(config: DictConfig, loggers: list[Any], totals: RunTotals) -> L.Trainer:
    """The Trainer.

    Raises:
        ConfigError: This machine or environment lacks what ``trainer`` asks for, such as a GPU; weights
            would train in half precision; or several processes are asked for, and no strategy.
    """
    from hydra.errors import InstantiationException
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from affectgpt_r1.callbacks.checkpoints import AtomicCheckpointIO
    from affectgpt_r1.config.compose import instantiate
    from affectgpt_r1.config.run_record import wall_time_of
    from affectgpt_r1.errors import ConfigError

    options: dict[str, Any] = {}
    if config.match_wall_time is not None:
        seconds = wall_time_of(config.match_wall_time)
        log.info("match_wall_time: training ends after %.1f s, earlier parts of a resumed run included", seconds)
        options["max_time"] = {"seconds": seconds}
    callbacks = [totals, *(instantiate(config.callbacks, "callbacks") or {}).values()]
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


def _build_module(
    config: DictConfig, policy: Any, stage: Any, lexicon: Any, skipped: Any, length: dict[str, int], **stored: Any
) -> AffectModule:
    """The module; ``stored`` is what its checkpoints carry besides the configuration."""
    from affectgpt_r1.config.compose import instantiate, resolved
    from affectgpt_r1.config.instantiate import answer_sampling
    from affectgpt_r1.training.module import AffectModule

    return AffectModule(
        policy,
        stage,
        lexicon,
        instantiate(config.optim.optimizer, "optim"),
        instantiate(config.optim.scheduler, "optim", **length),
        weight_decay=config.optim.weight_decay,
        answer_sampling=answer_sampling(config),
        seed=config.seed,
        skipped=skipped,
        config=_stored_config(resolved(config)),
        **stored,
    )


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _entry(config: DictConfig) -> float:
    from affectgpt_r1.config.sweep import run_trial

    with clear_errors(config):
        return train(config).get("best", float("nan")) if config.sweep.name is None else run_trial(config, train)


def main() -> None:
    """The command line."""
    program = sys.modules["__main__"]
    if program.__spec__ is None:  # the console script, which Lightning could not start again for the other processes
        program.__spec__ = find_spec(__name__ if __name__ != "__main__" else "affectgpt_r1.cli.train")
    run_with_clear_errors(_entry)


if __name__ == "__main__":
    main()
