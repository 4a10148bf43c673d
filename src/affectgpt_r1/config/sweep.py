"""Sweeps: ``affectgpt-r1 train -m ablation=reward``.

A trial is identified by the hash of what its result depends on. A finished one is not trained again, one whose process
was killed continues from its last checkpoint, and no two processes train the same one.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from numpy.typing import NDArray
from omegaconf import DictConfig

from affectgpt_r1.config.compose import instantiate
from affectgpt_r1.config.prepare_process import prepare_process
from affectgpt_r1.config.trials import Trial, is_untrained, read_trial
from affectgpt_r1.data.layouts.manifest import hash_order
from affectgpt_r1.data.layouts.mer import face_file, video_file
from affectgpt_r1.data.media.video import read_face_crops, read_frames
from affectgpt_r1.errors import ConfigError, MediaError
from affectgpt_r1.io.files import write_text
from affectgpt_r1.tracking import sweeps
from affectgpt_r1.tracking.mlflow_logger import RunStatus, read_run_id
from affectgpt_r1.tracking.sweeps import SweepRuns, sweep_lock

log = logging.getLogger(__name__)

SHOWN_CLIPS = 8
SHOWN_FRAMES = 4
TRIAL_FILE = "trial.json"  # what a job leaves in its Hydra folder for whoever leads the sweep


def run_trial(config: DictConfig, train: Callable[[DictConfig], dict[str, float]]) -> float:
    """Train and test a sweep's trial with ``train``, unless that has been done; return F1 on the test clips."""
    if config.overwrite:
        raise ConfigError(
            "overwrite=true: a sweep never trains a finished trial again; choose another experiment_name="
        )
    prepare_process(config)
    runs = _sweep_runs(config)
    trial = read_trial(config, HydraConfig.get().runtime.choices)
    config.paths.run = str(Path(config.paths.experiment) / trial.config_hash)
    with runs.lock(trial.config_hash):
        run_id = runs.finished_trial(trial.config_hash)
        if run_id is None:
            _take_up(config, trial, runs)
            if is_untrained(config):
                config.train = False
            train(config)
            run_id = read_run_id(config.paths.run)
            assert run_id is not None
        else:
            log.info("%s is finished: MLflow run %s", trial.run_name, run_id)
    entry = {"choice": trial.choice, "seed": trial.seed, "config_hash": trial.config_hash, "run_id": run_id}
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # else nobody leads a sweep
        folder = Path(HydraConfig.get().runtime.output_dir)
        write_text(folder / TRIAL_FILE, json.dumps(entry))
        if parent := runs.find_sweep(trial.sweep):
            runs.describe(parent, read_entries(folder.parent))
    return runs.score(run_id)


def _take_up(config: DictConfig, trial: Trial, runs: SweepRuns) -> None:
    """Name the trial's MLflow run, and let it continue from the last checkpoint of a run that was killed."""
    choices = HydraConfig.get().runtime.choices
    tags = {
        **{sweeps.KIND: "trial", sweeps.SWEEP: trial.sweep, sweeps.HASH: trial.config_hash},
        **{f"affectgpt.{group}": choices[group] for group in ("reward", "prompt", "penalty")},
        **{"affectgpt.seed": str(trial.seed), "affectgpt.synthetic": str(config.synthetic).lower()},
    }
    parent = runs.find_sweep(trial.sweep)
    config.logger.mlflow.tags = tags if parent is None else {**tags, sweeps.PARENT: parent}
    config.logger.mlflow.run_name = trial.run_name
    if "progress" in config.callbacks:
        config.callbacks.progress.stage = trial.run_name
    folder = Path(config.paths.run)
    cut_short = (folder / "checkpoints" / "last.ckpt").is_file() and runs.has_trial(
        read_run_id(folder), trial.config_hash
    )
    if cut_short:
        log.info("%s continues from its last checkpoint", trial.run_name)
        config.ckpt_path = "last"
    elif folder.exists():
        shutil.rmtree(folder)


class SweepCallback(Callback):
    """Opens a sweep's parent run for Hydra, and closes it however the sweep ends."""

    def __init__(self) -> None:
        self._close: Callable[[RunStatus], None] | None = None
        self._at_exit: Callable[[], None] | None = None

    def __reduce__(self) -> tuple[type[SweepCallback], tuple[()]]:
        """Reset: Hydra sends its callbacks to the processes that train, which lead no sweep and hold no lock."""
        return (SweepCallback, ())

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Mark killed runs, open the parent run and log the clips that a report will show."""
        if config.sweep.name is None:
            return
        runs = _sweep_runs(config)
        folder = Path(config.hydra.sweep.dir)
        held = ExitStack()
        held.enter_context(runs.lock(sweep_lock(config.sweep.name)))
        runs.mark_killed()
        run_id = runs.open_sweep(config.sweep.name, baseline=config.sweep.baseline, synthetic=config.synthetic)
        leader = os.getpid()

        def close(status: RunStatus) -> None:
            if os.getpid() == leader:  # a forked worker inherits what runs at exit
                runs.mark_killed()
                runs.close_sweep(run_id, read_entries(folder), status)
                held.close()

        self._close = close
        self._at_exit = lambda: close("FAILED")
        atexit.register(self._at_exit)
        if not runs.has_clips(run_id):
            clips, frames = shown_clips(config)
            runs.log_clips(run_id, clips, frames)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write ``trials.json``; Hydra does not call this if a job failed, the exit of the process then does."""
        if self._close is not None and self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._close("FINISHED")


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """Return what the jobs of a multirun left in its folder, in their order; a damaged file is named and left out."""
    entries = []
    for file in sorted(folder.glob(f"*/{TRIAL_FILE}"), key=lambda file: (len(file.parent.name), file.parent.name)):
        try:
            entries.append(dict(json.loads(file.read_bytes())))
        except (ValueError, TypeError):
            log.warning("%s is damaged: the list of trials lacks it; run the sweep again, which trains nothing", file)
    return entries


def shown_clips(config: DictConfig) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Return the test clips that a report shows, always the same, and frames of each; unreadable ones are left out.

    ``name``, ``subtitle`` and ``target`` of each, and by name ``(F, H, W, 3)`` uint8 RGB.
    """
    data = instantiate(config.data, "data")
    data.setup()
    clips: list[dict[str, Any]] = []
    frames: dict[str, NDArray[Any]] = {}
    for row in hash_order(data.splits.test, salt="report"):
        if len(clips) == SHOWN_CLIPS:
            break
        video = video_file(data.root, row.name)
        try:
            frames[row.name] = (
                read_frames(video, SHOWN_FRAMES, data.media.decoder)
                if video.exists()
                else read_face_crops(face_file(data.root, row.name), SHOWN_FRAMES, data.media.channel_order)
            )
        except MediaError as error:
            log.warning("A clip is left out of the report: %s", error)
            continue
        clips.append({"name": row.name, "subtitle": row.subtitle, "target": list(row.labels)})
    return clips, frames


def _sweep_runs(config: DictConfig) -> SweepRuns:
    if "mlflow" not in config.logger:
        raise ConfigError("a sweep finds its finished trials in MLflow: leave logger=mlflow")
    folder = Path(config.paths.experiment)
    return SweepRuns(config.paths.outputs, config.logger.mlflow.experiment_name, folder / "locks")
