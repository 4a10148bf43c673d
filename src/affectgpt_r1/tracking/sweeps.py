"""Sweeps in MLflow: one parent run per sweep, one child run per trial.

A process that trains a trial or leads a sweep holds a file lock of its name, which the system drops with it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from numpy.typing import NDArray

from affectgpt_r1.io.plain_json import json_text
from affectgpt_r1.tracking.artifacts import artifact_folder
from affectgpt_r1.tracking.database import ensure_database, ensure_experiment
from affectgpt_r1.tracking.killed_runs import mark_killed, process_tags
from affectgpt_r1.tracking.mlflow_logger import RunStatus, hardware
from affectgpt_r1.tracking.provenance import command_line, git_tags
from affectgpt_r1.tracking.sweep_page import describe_sweep

log = logging.getLogger(__name__)

KIND, SWEEP, BASELINE, HASH = (f"affectgpt.{name}" for name in ("kind", "sweep", "baseline", "config_hash"))
PARENT = "mlflow.parentRunId"
TEST_SCORE = "test/f1"  # a finished trial has it


class SweepRuns:
    """The sweeps and trials of one MLflow experiment; ``locks`` is a folder that all processes of a sweep share."""

    def __init__(self, outputs: str | Path, experiment_name: str, locks: str | Path) -> None:
        from mlflow.tracking import MlflowClient

        uri = ensure_database(Path(outputs))
        self._experiment_id = ensure_experiment(uri, experiment_name, Path(outputs) / "artifacts")
        self._client: Any = MlflowClient(uri)
        self._locks, self._outputs, self._experiment = Path(locks), Path(outputs), experiment_name

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of a trial's hash or of a sweep; wait while another process has it."""
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("Another process is training %s; waiting for it", name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def finished_trial(self, config_hash: str) -> str | None:
        """Return the run id of the finished and tested trial of this hash, None if there is none."""
        for run in self._search(f"tags.`{HASH}` = '{config_hash}' and attributes.status = 'FINISHED'"):
            if TEST_SCORE in run.data.metrics:
                return str(run.info.run_id)
        return None

    def has_trial(self, run_id: str | None, config_hash: str) -> bool:
        """Return whether there is a run of this id and hash."""
        return any(run.info.run_id == run_id for run in self._search(f"tags.`{HASH}` = '{config_hash}'"))

    def score(self, run_id: str) -> float:
        """Return a finished trial's F1 on the test clips."""
        return float(self._client.get_run(run_id).data.metrics[TEST_SCORE])

    def mark_killed(self) -> list[str]:
        """Set KILLED on runs whose process is gone; return their ids."""
        return mark_killed(self._client, self._outputs)

    def find_sweep(self, name: str) -> str | None:
        """Return the run id of a sweep's parent run, None if it has none."""
        runs = self._search(f"tags.`{KIND}` = 'sweep' and tags.`{SWEEP}` = '{name}'")
        return str(runs[-1].info.run_id) if runs else None

    def open_sweep(self, name: str, *, baseline: str, synthetic: bool) -> str:
        """Start a sweep's parent run, or reopen the one that there is, and return its id; hold the sweep's lock.

        ``baseline`` is the choice that the others are compared with.
        """
        from mlflow.tracking.context.registry import resolve_tags

        tags = {
            **{KIND: "sweep", SWEEP: name, BASELINE: baseline, "affectgpt.synthetic": str(synthetic).lower()},
            **{"experiment": self._experiment, "stage": "sweep", "baseline": baseline},
            **{"hardware": hardware(), "command": command_line(), **git_tags()},
            **process_tags(self._locks / f"{sweep_lock(name)}.lock", self._outputs),
        }
        run_id = self.find_sweep(name)
        if run_id is None:
            run = self._client.create_run(self._experiment_id, tags=resolve_tags(tags), run_name=name)
            self.describe(str(run.info.run_id), [])
            return str(run.info.run_id)
        self._folder_of(run_id)
        self._client.update_run(run_id, status="RUNNING")
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value)
        return run_id

    def log_clips(self, run_id: str, clips: Sequence[Mapping[str, Any]], frames: Mapping[str, NDArray[Any]]) -> None:
        """Log clips for a report to show: ``clips/clips.json``, and one PNG per frame.

        Args:
            run_id: A sweep's parent run.
            clips: ``name``, ``subtitle`` and ``target`` of each.
            frames: By name, ``(F, H, W, 3)`` uint8 RGB.
        """
        rows = []
        for clip in clips:
            stem = re.sub(r"[^\w.-]", lambda match: f"_{ord(match[0]):x}_", clip["name"])  # a name may hold a slash
            files = [f"{stem}-{index}.png" for index in range(len(frames[clip["name"]]))]
            for file, frame in zip(files, frames[clip["name"]], strict=True):
                self._client.log_image(run_id, frame, artifact_file=f"clips/{file}")
            rows.append({**clip, "frames": files})
        self._client.log_text(run_id, json_text(rows), "clips/clips.json")

    def has_clips(self, run_id: str) -> bool:
        """Return whether :meth:`log_clips` was called for this run."""
        return (self._folder_of(run_id) / "clips" / "clips.json").is_file()

    def describe(self, run_id: str, trials: Sequence[Mapping[str, Any]]) -> None:
        """Write the table of the trials that are done into the page of a sweep that is running."""
        describe_sweep(self._client, run_id, trials)

    def close_sweep(self, run_id: str, trials: Sequence[Mapping[str, Any]], status: RunStatus) -> None:
        """Write ``trials.json`` and the parent run's final status.

        Args:
            run_id: A sweep's parent run.
            trials: ``choice``, ``seed``, ``config_hash`` and ``run_id`` of each, in display order; without any, a list
                that an earlier attempt wrote stays.
            status: How the sweep ended.
        """
        if trials:
            self._client.log_text(run_id, json_text(trials), "trials.json")
            describe_sweep(self._client, run_id, trials, curves=True)
        self._client.set_terminated(run_id, status)

    def _folder_of(self, run_id: str) -> Path:
        """Return the folder of a run's artifacts; a ConfigError if it is not below the outputs folder."""
        return artifact_folder(self._client.get_run(run_id).info.artifact_uri, self._outputs, f"MLflow run {run_id}")

    def _lock(self, name: str) -> FileLock:
        self._locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self._locks / f"{name}.lock")

    def _search(self, condition: str) -> list[Any]:
        runs: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], condition, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs


def sweep_lock(name: str) -> str:
    """Return the name of the lock that the leader of a sweep holds."""
    return f"sweep-{name}"
