"""The MLflow logger of every run: one run, its provenance, its tables and its final status."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_only

from affectgpt_r1.data.splits import LabelFile
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import json_line
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.plain_json import finite_or_none, json_text
from affectgpt_r1.tracking.artifacts import artifact_folder
from affectgpt_r1.tracking.dashboard import code, dataset_input, run_link
from affectgpt_r1.tracking.database import DATABASE_NAME, ensure_database, ensure_experiment, locked
from affectgpt_r1.tracking.killed_runs import LOCK_FILE, mark_killed, process_tags
from affectgpt_r1.tracking.logged_models import link_prompt, log_checkpoint
from affectgpt_r1.tracking.provenance import command_line, flatten_config, git_tags
from affectgpt_r1.tracking.traces import log_answers

log = logging.getLogger(__name__)

RunStatus: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]
Cell: TypeAlias = str | float | int | None

CHANGES_TAG, HASH_TAG = "affectgpt.config_changes", "affectgpt.config_hash"

_TAG_CHARACTERS = 5000  # MLflow's limit
_RUN_ID_FILE = "mlflow_run_id"
_TABLES_TAG = "mlflow.loggedArtifacts"
_TABLES_SHOWN = 80  # MLflow cuts a tag at 8,000 characters and then cannot parse its own list of tables
_PARAMS_PER_CALL = 100
_SCORES = ("val/f1", "train/reward")


class Terminated(SystemExit):
    """Raised in the main thread on SIGTERM, so that the run ends in order."""

    def __init__(self) -> None:
        super().__init__(143)


def status_of(error: BaseException | None) -> RunStatus:
    """Return the status of a run that ended with ``error``; None where it reached its end.

    Lightning turns Ctrl-C into ``SystemExit(1)``, whose context is the interrupt.
    """
    if error is None:
        return "FINISHED"
    if isinstance(error, KeyboardInterrupt | Terminated | SIGTERMException):
        return "KILLED"
    if isinstance(error, SystemExit):
        if error.__context__ is not None:
            return status_of(error.__context__)
        return "FAILED" if error.code else "FINISHED"
    return "FAILED"


class TrackedMLFlowLogger(MLFlowLogger):
    """Logs one run into ``<folder>/mlflow.db``, creating the database if need be.

    The run starts at the first access to :attr:`experiment`. Given a ``run_id`` it continues that run. Inside
    :func:`~affectgpt_r1.tracking.run_status.tracked_run` the status is set once, on the way out; otherwise by Lightning
    at the end of each fit.

    Args:
        folder: The outputs folder, which holds the database and ``artifacts/``.
        experiment_name: The MLflow experiment.
        run_name: None for one that MLflow makes up.
        stage: A tag, such as ``grpo``.
        run_id: A run to continue.
        run_folder: Folder of this run's output, whose lock this process holds.
        tags: More tags.
        baseline: A tag: what the run starts from.

    Raises:
        ConfigError: If the database cannot be made, ``run_id`` names no run in it, or artifacts would go elsewhere.
    """

    def __init__(
        self,
        folder: str | Path,
        experiment_name: str,
        run_name: str | None = None,
        stage: str = "",
        run_id: str | None = None,
        run_folder: str | Path | None = None,
        tags: Mapping[str, str] | None = None,
        baseline: str = "",
    ) -> None:
        folder = Path(folder).resolve()
        command = command_line()
        provenance = {"experiment": experiment_name, "stage": stage, "command": command, "hardware": hardware()}
        # Not a block of code: its lines are never wrapped, and push the run's tags and data off the page.
        self._description = f"Command: {code(command)}" + (f"\n\nFolder: {code(str(run_folder))}" if run_folder else "")
        super().__init__(
            experiment_name=experiment_name,
            run_name=run_name,
            tracking_uri=ensure_database(folder),
            tags={**provenance, **git_tags(), **({"baseline": baseline} if baseline else {}), **(tags or {})},
            log_model=False,
            run_id=run_id,
        )
        self._folder, self._artifact_root = folder, folder / "artifacts"
        self._run_folder = None if run_folder is None else Path(run_folder)
        self._artifacts: Path | None = None  # of the run
        self._tables: list[dict[str, str]] | None = None  # that its page shows
        self.status_is_set_outside = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the :class:`mlflow.MlflowClient`; the first access creates or reopens the run."""
        if self._initialized:
            return self._mlflow_client
        if self._run_id is not None:
            self._reopen(self._run_id)
        else:
            self._experiment_id = ensure_experiment(str(self._tracking_uri), self._experiment_name, self._artifact_root)
        # Else it logs a page of traceback for an error that we report in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        client = super().experiment
        lock = None if self._run_folder is None else self._run_folder / LOCK_FILE
        if lock is not None:
            for key, value in process_tags(lock, self._folder).items():
                client.set_tag(self._run_id, key, value)
        mark_killed(client, self._folder, str(self._run_id), lock)
        return client

    @rank_zero_only
    def keep_run_id(self) -> None:
        """Write the run's id into its folder, once the files of the run that it replaces are removed."""
        if self._run_folder is not None:
            write_text(self._run_folder / _RUN_ID_FILE, f"{self.run_id}\n")

    @property
    def link(self) -> str:
        """Return the address of the run's page while ``make mlflow`` serves it."""
        return run_link(str(self.experiment_id), str(self.run_id))

    @property
    def outputs(self) -> Path:
        """The folder of the database."""
        return self._folder

    @property
    def save_dir(self) -> str | None:
        """Return this run's output folder, if it was given."""
        return None if self._run_folder is None else str(self._run_folder)

    @rank_zero_only
    def start(self) -> None:
        """Create or reopen the run now, so that a failure before training is on record."""
        _ = self.experiment

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Log a resolved configuration: flat as params, in full as the artifact ``config/resolved.yaml``."""
        self.log_hyperparams(dict(config))
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self.log_text(text, "config/resolved.yaml")

    @rank_zero_only
    def log_config_changes(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Tag the run with ``step``, ``key``, ``before`` and ``after`` of each setting that a resume changed."""
        lines = [
            f"step {change['step']}: {change['key']} {change['before']} -> {change['after']}" for change in changes
        ]
        self.experiment.set_tag(self.run_id, CHANGES_TAG, "\n".join(lines)[-_TAG_CHARACTERS:])

    @rank_zero_only
    def log_data(self, digest: str, synthetic: bool, note: str = "", files: Iterable[LabelFile] = ()) -> None:
        """Tag the run with its data, list the label files as MLflow's data sets, and describe the run (in Markdown).

        Args:
            digest: Of all label files.
            synthetic: The description says so if the clips are.
            note: More for the description.
            files: What was read of each split.
        """
        warning = (
            "**Synthetic clips**: every metric of this run is a metric of rendered, synthetic data."
            if synthetic
            else ""
        )
        tags = {
            "data_digest": digest,
            "synthetic": str(synthetic).lower(),
            "mlflow.note.content": "\n\n".join(part for part in (warning, note, self._description) if part),
        }
        files = list(files)
        if files:
            tags["data"] = ", ".join(f"{file.path.name} ({file.split}, {file.num_clips} clips)" for file in files)
            self.experiment.log_inputs(self.run_id, datasets=[dataset_input(file) for file in files])
        for key, value in tags.items():
            self.experiment.set_tag(self.run_id, key, value)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log params by dotted key; on a resumed run changed ones go to an artifact, for MLflow params never change.

        The run's name and paths inside its folder are left out: they differ between any two runs, so that MLflow's view
        of two runs would open on them.
        """
        from mlflow.entities import Param

        flat = flatten_config(params if isinstance(params, Mapping) else vars(params))
        flat = {key: value for key, value in flat.items() if key.rpartition(".")[2] != "run_name"}
        if self._run_folder is not None:
            own = (str(self._run_folder), f"{self._run_folder}{os.sep}")
            flat = {key: value for key, value in flat.items() if value != own[0] and not value.startswith(own[1])}
        logged = self.experiment.get_run(self.run_id).data.params
        fresh = [Param(key, value) for key, value in flat.items() if key not in logged]
        for start in range(0, len(fresh), _PARAMS_PER_CALL):
            self.experiment.log_batch(self.run_id, params=fresh[start : start + _PARAMS_PER_CALL])
        changed = {key: [logged[key], value] for key, value in flat.items() if logged.get(key, value) != value}
        if changed:
            self.log_text(json_text(changed), "config/changed_params.json")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, the scores before the others: MLflow compares two runs by the one that was logged first."""
        order = sorted(metrics, key=lambda name: (name not in _SCORES, name.count("/") or sys.maxsize))  # epoch last
        super().log_metrics({name: metrics[name] for name in order}, step)

    @rank_zero_only
    def log_test_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log how this run's best checkpoint, of ``step``, answered the test clips; its logged model gets them, too."""
        run = self.experiment.get_run(self.run_id)
        tested = [used for used in run.inputs.dataset_inputs if any(tag.value == "test" for tag in used.tags)]
        self._log_of_model(run, metrics, step, tested)

    @rank_zero_only
    def log_table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], path: str) -> None:
        """Log a table, shown as one by the MLflow interface; a table of the same ``path`` (``….json``) is replaced.

        Floats are rounded to four decimals, NaN and infinities become empty cells.
        """
        # MLflow's own log_table appends when a resumed run repeats a step, and lists every table in one tag, which it
        # truncates after some 130 tables and then cannot parse. So we write the file and keep the tag short.
        cells = [[round(cell, 4) if isinstance(cell, float) else cell for cell in row] for row in rows]
        self.log_text(json_line(finite_or_none({"columns": columns, "data": cells})), path)
        if self._tables is None:
            self._tables = json.loads(self.experiment.get_run(self.run_id).data.tags.get(_TABLES_TAG, "[]"))
        shown = [table for table in self._tables if table["path"] != path] + [{"path": path, "type": "table"}]
        self._tables = shown[-_TABLES_SHOWN:]
        self.experiment.set_tag(self.run_id, _TABLES_TAG, json.dumps(self._tables))

    @rank_zero_only
    def log_text(self, text: str, path: str) -> None:
        """Log ``text`` as the artifact file ``path``."""
        from mlflow.utils.file_utils import local_file_uri_to_path

        # MLflow's own log_text leaves half a file on a full disk.
        client = self.experiment
        if self._artifacts is None:  # to read a run takes longer than to write a table
            self._artifacts = Path(local_file_uri_to_path(client.get_run(self.run_id).info.artifact_uri))
        write_text(self._artifacts / path, text, flush=False)  # no fsync: some hundred tables per run

    @rank_zero_only
    def log_checkpoint(self, checkpoint: Path, step: int) -> None:
        """List a checkpoint among the run's logged models."""
        run = self.experiment.get_run(self.run_id)
        tags = {key: run.data.tags[key] for key in ("stage", "baseline", "data_digest") if key in run.data.tags}
        log_checkpoint(self.experiment, run, checkpoint, step, tags)

    @rank_zero_only
    def log_prompt(self, name: str, template: str) -> None:
        """Link the run to its prompt in the registry; one process at a time, or two would register it."""
        client = self.experiment  # which takes the lock, too
        with locked(self._folder / DATABASE_NAME):
            link_prompt(client, str(self.run_id), name, template)

    @rank_zero_only
    def log_judgement(
        self, run_folder: str | Path, metrics: Mapping[str, float], step: int, answers: Iterable[Mapping[str, Any]]
    ) -> None:
        """Log what this run, an evaluation, found about another one on that run: its page has to show its score.

        Args:
            run_folder: Of the other run; nothing is logged unless the same database has it.
            metrics: By log name.
            step: The step of the checkpoint that was judged.
            answers: See :func:`~affectgpt_r1.tracking.traces.log_answers`.
        """
        from mlflow.exceptions import MlflowException

        run_id = read_run_id(run_folder)
        try:
            judged = None if run_id is None else self.experiment.get_run(run_id)
        except MlflowException:
            judged = None  # another database's
        if judged is None or HASH_TAG in judged.data.tags:  # a sweep's trial was judged as it ended
            log.info("%s: its MLflow run is not in this database, or is a trial; its page stays as it is", run_folder)
            return
        self._log_of_model(judged, metrics, step, self.experiment.get_run(self.run_id).inputs.dataset_inputs)
        self.experiment.set_tag(judged.info.run_id, "evaluation", self.run_id)
        log_answers(str(self._tracking_uri), judged.info.experiment_id, judged.info.run_id, answers)

    @rank_zero_only
    def end(self, status: RunStatus) -> None:
        """Set the final status."""
        self.experiment.set_terminated(self.run_id, status)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Set the status at the end of a fit; inside ``tracked_run``, where the run may continue, do nothing."""
        if not self._initialized or self.status_is_set_outside:
            return
        error = None if status in ("success", "finished") else sys.exc_info()[1]
        self.end("FAILED" if status == "failed" and error is None else status_of(error))

    def _log_of_model(self, run: Any, metrics: Mapping[str, float], step: int, datasets: Sequence[Any]) -> None:
        """Log metrics on a run, on its newest logged model, and as those of the first of the data sets."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        models = run.outputs.model_outputs if run.outputs else []
        model_id = models[-1].model_id if models else None
        of_data = {f"dataset_{key}": getattr(datasets[0].dataset, key) for key in ("name", "digest") if datasets}
        values = [Metric(name, value, now, step, model_id=model_id, **of_data) for name, value in metrics.items()]
        self.experiment.log_batch(run.info.run_id, metrics=values)

    def _reopen(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            run = self._mlflow_client.get_run(run_id)
            artifact_folder(run.info.artifact_uri, self._artifact_root.parent, f"run_id={run_id}")
            self._mlflow_client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            raise ConfigError(
                f"run_id={run_id}: the MLflow database {self._tracking_uri} has no such active run; take an id from "
                f"the MLflow page by logger.mlflow.run_id=ID, or leave it out and delete {_RUN_ID_FILE} in the run's "
                "folder to continue in a new run"
            ) from error


def hardware() -> str:
    """Return what computes here, such as ``1 x NVIDIA H200`` or ``2 CPU cores``."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{len(os.sched_getaffinity(0))} CPU cores"


def mlflow_loggers(loggers: Iterable[Logger]) -> list[TrackedMLFlowLogger]:
    """Return those of a trainer's loggers that can hold artifacts."""
    return [logger for logger in loggers if isinstance(logger, TrackedMLFlowLogger)]


def read_run_id(run_folder: str | Path) -> str | None:
    """Return the MLflow run id that an earlier run left in ``run_folder``, None if it left none."""
    path = Path(run_folder) / _RUN_ID_FILE
    if not path.is_file():
        return None
    run_id = path.read_bytes().strip()
    if not re.fullmatch(rb"[0-9a-f]{32}", run_id):
        raise ConfigError(
            f"{path}: damaged, it does not hold an MLflow run id; take the id from the MLflow page by "
            "logger.mlflow.run_id=ID, or delete the file to continue in a new MLflow run"
        )
    return run_id.decode()
