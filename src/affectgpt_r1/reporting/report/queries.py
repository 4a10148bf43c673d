"""What the report asks of MLflow: sweeps, their finished cells, answers, curves and the clips to show."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.reporting.database import DATABASE_NAME, check_intact, is_database
from affectgpt_r1.reporting.moved import follow_artifacts
from affectgpt_r1.types import EmotionSet

EXPERIMENT = "ablations"
SWEEPS = ("reward", "reasoning", "penalty")
CURVES = (
    *("val/f1", "val/answers/distinct_words", "val/answers/clusters_named_share", "val/answers/answer_entropy"),
    *("train/reward", "train/entropy", "train/frac_reward_zero_std", "train/kl"),
)
REWARD_PART = re.compile(r"train/rewards/(.+)/mean")
"""Metrics that the report draws: these, and the mean of each part of the reward."""
ALARM_TAG = "affectgpt.reward_hacking"
_MOST_RUNS = 1000

Curve = Mapping[int, float]
"""A metric's value by step."""


@dataclass(frozen=True)
class Answer:
    """What one policy answered about one test clip."""

    name: str
    target: EmotionSet
    openset: EmotionSet
    completion: str
    f1: float | None


@dataclass(frozen=True)
class Cell:
    """One trained and tested policy. Metrics carry their MLflow names.

    ``alarm`` is the step at which training warned that the reward rose while held-out answers got worse.
    """

    choice: str
    seed: int
    run_id: str
    metrics: Mapping[str, float]
    answers: tuple[Answer, ...]
    lexicon: str = "bundled"
    curves: Mapping[str, Curve] = field(default_factory=dict)
    alarm: str | None = None
    prompt: str = ""
    git_commit: str = "unknown"


@dataclass(frozen=True)
class Clip:
    """A test clip to show; ``frames`` are PNG files."""

    name: str
    subtitle: str
    target: EmotionSet
    frames: tuple[bytes, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep's finished cells in display order; ``missing`` says in words what is not there."""

    name: str
    baseline: str
    synthetic: bool
    cells: tuple[Cell, ...]
    clips: tuple[Clip, ...]
    missing: tuple[str, ...]

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices that have a finished cell, in display order."""
        return tuple(dict.fromkeys(cell.choice for cell in self.cells))

    def of(self, choice: str) -> list[Cell]:
        """The cells of ``choice`` by seed, each run once."""
        cells = sorted((cell for cell in self.cells if cell.choice == choice), key=lambda cell: cell.seed)
        return list({cell.run_id: cell for cell in reversed(cells)}.values())[::-1]


def read_sweeps(outputs: Path) -> list[Sweep]:
    """The three sweeps below ``outputs``; one that was not run has no cells and says so.

    Args:
        outputs: The folder that holds ``mlflow.db``.

    Raises:
        ConfigError: If there is no MLflow database, it is damaged, or no ablation is in it.
        DataError: If an artifact of a sweep is damaged.
    """
    from mlflow.tracking import MlflowClient

    database = outputs.resolve() / DATABASE_NAME
    if not is_database(database):
        raise ConfigError(f"{database}: there is no MLflow database; run `make ablations` first")
    check_intact(database)
    follow_artifacts(database)
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise ConfigError(f"{database}: it has no experiment {EXPERIMENT!r}; run `make ablations` first")
    return [_read_sweep(client, str(experiment.experiment_id), name) for name in SWEEPS]


def _read_sweep(client: Any, experiment_id: str, name: str) -> Sweep:
    parents = client.search_runs(
        [experiment_id],
        f"tags.`affectgpt.kind` = 'sweep' and tags.`affectgpt.sweep` = '{name}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not parents:
        return Sweep(name, "", False, (), (), (f"the {name} sweep has not been run: `make ablations` runs it",))
    parent = parents[0]
    listed = _json(client, parent.info.run_id, "cells.json")
    missing = []
    if listed is None:
        listed = _children(client, experiment_id, parent.info.run_id, name)
        missing.append(f"the {name} sweep has not ended: only what it has logged so far is shown")
    elif parent.info.status != "FINISHED":
        missing.append(f"the {name} sweep is {parent.info.status}: only what it had finished is shown")
    cells = []
    for entry in listed:
        cell = _read_cell(client, entry)
        if cell is None:
            missing.append(f"{name} sweep: {entry['choice']}, seed {entry['seed']} is not finished")
        else:
            cells.append(cell)
    tags = parent.data.tags
    missing += _missing_seeds(name, cells)
    baseline = tags.get("affectgpt.baseline", "")
    if cells and baseline not in {cell.choice for cell in cells}:
        missing.append(f"{name} sweep: the baseline {baseline} has no finished cell, so nothing is compared with it")
    return Sweep(
        name=name,
        baseline=baseline,
        synthetic=tags.get("affectgpt.synthetic") == "true",
        cells=tuple(cells),
        clips=_read_clips(client, parent.info.run_id),
        missing=tuple(missing),
    )


def _children(client: Any, experiment_id: str, parent_id: str, sweep: str) -> list[dict[str, Any]]:
    """The cells that a sweep which has not ended trained itself, by the names of their runs."""
    runs = client.search_runs(
        [experiment_id],
        f"tags.mlflow.parentRunId = '{parent_id}'",
        order_by=["attributes.start_time ASC"],
        max_results=_MOST_RUNS,
    )
    found = []
    for run in runs:
        choice, _, seed = run.info.run_name.removeprefix(f"{sweep}-").rpartition("-seed")
        if choice and seed.isdigit():
            found.append({"choice": choice, "seed": int(seed), "run_id": run.info.run_id})
    return found


def _read_cell(client: Any, entry: Mapping[str, Any]) -> Cell | None:
    """The cell, None if it has no test scores."""
    from mlflow.exceptions import MlflowException

    run_id = str(entry.get("run_id", ""))
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    answers = _artifact(client, run_id, "test/answers.jsonl")
    if run.info.status != "FINISHED" or "test/f1" not in run.data.metrics or answers is None:
        return None
    curves = {
        key: {point.step: point.value for point in client.get_metric_history(run_id, key)}
        for key in sorted(run.data.metrics)
        if key in CURVES or REWARD_PART.fullmatch(key)
    }
    return Cell(
        choice=str(entry["choice"]),
        seed=int(entry["seed"]),
        run_id=run_id,
        metrics=run.data.metrics,
        answers=tuple(_read_answers(answers)),
        lexicon=run.data.params.get("emotion.lexicon", "bundled"),
        curves={key: curve for key, curve in curves.items() if len(curve) > 1},
        alarm=run.data.tags.get(ALARM_TAG),
        prompt=run.data.tags.get("affectgpt.prompt", ""),
        git_commit=run.data.tags.get("git_commit", "unknown"),
    )


def _read_answers(path: Path) -> list[Answer]:
    answers = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            target, openset = (tuple(map(str, row[key])) for key in ("target", "openset"))
            score = None if row["f1"] is None else float(row["f1"])
            answers.append(Answer(str(row["name"]), target, openset, str(row["completion"]), score))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: no answer ({error!r}); delete its run and repeat it") from error
    return answers


def _missing_seeds(name: str, cells: Sequence[Cell]) -> list[str]:
    """Seeds that a choice lacks and another has; a policy that was not trained, and has no curves, has no seed."""
    seeds = sorted({cell.seed for cell in cells})
    lines = []
    for choice in dict.fromkeys(cell.choice for cell in cells):
        own = {cell.seed for cell in cells if cell.choice == choice}
        lacking = [str(seed) for seed in seeds if seed not in own]
        if lacking and any(cell.curves for cell in cells if cell.choice == choice):
            lines.append(f"{name} sweep: {choice} lacks seed {', '.join(lacking)}")
    return lines


def _read_clips(client: Any, run_id: str) -> tuple[Clip, ...]:
    clips = []
    for entry in _json(client, run_id, "clips/clips.json") or []:
        frames = [_artifact(client, run_id, f"clips/{frame}") for frame in entry["frames"]]
        images = tuple(path.read_bytes() for path in frames if path is not None)
        clips.append(Clip(str(entry["name"]), str(entry["subtitle"] or ""), tuple(map(str, entry["target"])), images))
    return tuple(clips)


def _json(client: Any, run_id: str, path: str) -> Any:
    """Content of a JSON artifact, None if there is none."""
    file = _artifact(client, run_id, path)
    if file is None:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: this is no JSON ({error}); run `make ablations` again") from error


def _artifact(client: Any, run_id: str, path: str) -> Path | None:
    """Where an artifact lies, None if the run has no such artifact."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    folder = path.rpartition("/")[0]
    if path not in {artifact.path for artifact in client.list_artifacts(run_id, folder or None)}:
        return None
    return Path(client.download_artifacts(run_id, path))
