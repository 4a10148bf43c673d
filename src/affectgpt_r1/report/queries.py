"""Read from MLflow what the report shows of sweeps: finished trials, answers, curves and the clips to show."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from affectgpt_r1.emotion.lexicon import PUBLISHED_VERSIONS
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.io.untrusted_files import json_lines, read_json
from affectgpt_r1.tracking.artifacts import find_artifact
from affectgpt_r1.tracking.database import DATABASE_NAME, check_intact, is_database
from affectgpt_r1.tracking.old_names import ARTIFACTS, current_metric, current_param, current_tags, renamed
from affectgpt_r1.tracking.relocate_artifacts import relocate_artifacts
from affectgpt_r1.types import EmotionSet

EXPERIMENT = "ablations"
PAPERS_SWEEPS = ("reward", "reasoning", "penalty")
SWEEPS = (*PAPERS_SWEEPS, "objective")
CURVES = (
    *("val/f1", "val/answers/distinct_words", "val/answers/clusters_named_fraction", "val/answers/answer_entropy"),
    *("train/reward", "train/entropy", "train/frac_reward_zero_std", "train/kl", "val/kl"),
)
REWARD_PART = re.compile(r"train/rewards/(.+)/mean")
"""Metrics that the report draws: these, and the mean of each part of the reward."""
ALARM_TAG = "affectgpt.reward_hacking"
_MOST_RUNS = 1000
_LONGEST_TEXT = 200
"""Characters of a name or tag; a longer one is cut."""
_LARGEST_METRIC = 1e12
"""MLflow stores infinity as the largest float."""
_LARGEST_IMAGE = 4096
"""Pixels a side."""
_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"

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
class Trial:
    """One trained and tested policy. Metrics carry their MLflow names.

    ``alarm`` is the step at which training warned that the reward rose while the answers to validation clips got worse.
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
    steps: int | None = None
    date: str = ""
    command: str = ""


@dataclass(frozen=True)
class Clip:
    """A test clip to show; ``frames`` are PNG files."""

    name: str
    subtitle: str
    target: EmotionSet
    frames: tuple[bytes, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep's finished trials in display order; ``missing`` says in words what is not there.

    An experiment's policies (SFT, control, GRPO) are a sweep as well. The report is attached to the MLflow run
    ``run_id``, which ``command`` started, and to those of ``other_seeds``.
    """

    name: str
    baseline: str
    synthetic: bool
    trials: tuple[Trial, ...]
    clips: tuple[Clip, ...]
    missing: tuple[str, ...]
    run_id: str = ""
    command: str = ""
    other_seeds: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices that have a finished trial, in display order."""
        return tuple(dict.fromkeys(trial.choice for trial in self.trials))

    def of(self, choice: str) -> list[Trial]:
        """Return the trials of ``choice`` by seed, each run once."""
        trials = sorted((trial for trial in self.trials if trial.choice == choice), key=lambda trial: trial.seed)
        return list({trial.run_id: trial for trial in reversed(trials)}.values())[::-1]


def read_sweeps(outputs: Path, lexicon: str | None = None) -> list[Sweep]:
    """Return the sweeps below ``outputs``, none if there is no ablation.

    A sweep of the papers that was not run has no trials and says so; another is left out.

    Args:
        outputs: The folder that holds ``mlflow.db``.
        lexicon: Folder of the lexicon of runs that were scored by one of the user's own.

    Raises:
        ConfigError: The MLflow database is missing or damaged, or names artifacts elsewhere or a lexicon that
            ``lexicon`` does not allow.
        DataError: If an artifact of a sweep is damaged.
    """
    with open_runs(outputs, lexicon) as source:
        experiment = source.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        sweeps = [_read_sweep(source, str(experiment.experiment_id), name) for name in SWEEPS]
        return [sweep for sweep in sweeps if sweep.run_id or sweep.name in PAPERS_SWEEPS]


@contextmanager
def open_runs(outputs: Path, lexicon: str | None) -> Iterator[Source]:
    """Open the database; whatever MLflow cannot read of it is a ConfigError that names it."""
    database = outputs.resolve() / DATABASE_NAME
    if not is_database(database):
        raise ConfigError(f"{database}: no MLflow database; run `make grpo` or `make ablations` first")
    check_intact(database)
    relocate_artifacts(database)
    try:
        yield Source(MlflowClient(f"sqlite:///{database}"), database.parent, lexicon)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy", "alembic"):
            raise
        reason = short(" ".join(str(error).split()))
        raise ConfigError(f"{database}: MLflow cannot read this database ({reason}); restore it from a copy") from error


class Source(NamedTuple):
    """Where sweeps are read from; ``lexicon`` is the folder that the user named."""

    client: Any
    outputs: Path
    lexicon: str | None


def _read_sweep(source: Source, experiment_id: str, name: str) -> Sweep:
    client = source.client
    parents = client.search_runs(
        [experiment_id],
        f"tags.`affectgpt.kind` = 'sweep' and tags.`affectgpt.sweep` = '{name}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not parents:
        return Sweep(name, "", False, (), (), (f"the {name} sweep has not been run: `make ablations` runs it",))
    parent = parents[0]
    listed = _rows(source, parent, "trials.json", {"choice": str, "seed": int, "run_id": str})
    missing = []
    if listed is None:
        listed = _children(client, experiment_id, parent.info.run_id, name)
        missing.append(f"the {name} sweep has not ended: only what it has logged so far is shown")
    elif parent.info.status != "FINISHED":
        missing.append(f"the {name} sweep is {parent.info.status}: only what it had finished is shown")
    trials = []
    for entry in listed[:_MOST_RUNS]:
        trial = _read_trial(source, entry)
        if isinstance(trial, Trial):
            trials.append(trial)
        else:
            missing.append(f"{name} sweep: {short(entry['choice'])}, seed {entry['seed']} {trial}")
    tags = parent.data.tags
    missing += _missing_seeds(name, trials)
    baseline = short(tags.get("affectgpt.baseline", ""))
    clips, lacking = _read_clips(source, parent)
    missing += [f"{name} sweep: {line}" for line in lacking]
    if trials and baseline not in {trial.choice for trial in trials}:
        missing.append(f"{name} sweep: the baseline {baseline} has no finished trial, so nothing is compared with it")
    return Sweep(
        name=name,
        baseline=baseline,
        synthetic=tags.get("affectgpt.synthetic") == "true",
        trials=tuple(trials),
        clips=clips,
        missing=tuple(missing),
        run_id=str(parent.info.run_id),
        command=short(tags.get("command", "")),
    )


def _children(client: Any, experiment_id: str, parent_id: str, sweep: str) -> list[dict[str, Any]]:
    """List the trials that a sweep which has not ended trained itself, by the names of their runs."""
    runs = client.search_runs(
        [experiment_id],
        f"tags.mlflow.parentRunId = '{parent_id}'",
        order_by=["attributes.start_time ASC"],
        max_results=_MOST_RUNS,
    )
    entries = []
    for run in runs:
        choice, _, seed = str(run.info.run_name).removeprefix(f"{sweep}-").rpartition("-seed")
        if choice and re.fullmatch(r"[0-9]{1,9}", seed):
            entries.append({"choice": choice, "seed": int(seed), "run_id": run.info.run_id})
    return entries


def _read_trial(source: Source, entry: Mapping[str, Any]) -> Trial | str:
    """Return the trial, or why there is none."""
    run_id = entry["run_id"]
    try:
        run = source.client.get_run(run_id)
    except MlflowException:
        return "is not finished"
    answers = find_artifact(run, "test/answers.jsonl", source.outputs)
    score = run.data.metrics.get("test/f1")
    if run.info.status != "FINISHED" or score is None or answers is None:
        return "is not finished"
    if not 0 <= score <= 1:
        return f"is left out: it logged F1 {score:g}"
    metrics = {key: value for key, value in renamed(run.data.metrics, current_metric).items() if is_number(value)}
    return Trial(
        choice=short(entry["choice"]),
        seed=entry["seed"],
        run_id=run_id,
        metrics=metrics,
        answers=tuple(read_answers(answers)),
        lexicon=_lexicon(source, run),
        **read_training(source.client, run),
    )


def read_training(client: Any, run: Any) -> dict[str, Any]:
    """Return what a run tells of its training, as the keyword arguments of a :class:`Trial`."""
    curves: dict[str, dict[int, float]] = {}
    last = 0
    # Old names first: where a run was resumed by a newer version, its points count.
    for logged in sorted(run.data.metrics, key=lambda name: (name == current_metric(name), name)):
        key = current_metric(logged)
        if key in CURVES or (len(key) <= _LONGEST_TEXT and REWARD_PART.fullmatch(key)):
            history = client.get_metric_history(run.info.run_id, logged)
            curves.setdefault(key, {}).update((p.step, p.value) for p in history if is_number(p.value))
            last = max([last, *curves[key]])
    tags = current_tags(run.data.tags)
    return {
        "curves": {key: curve for key, curve in curves.items() if len(curve) > 1},
        "alarm": None if ALARM_TAG not in tags else short(tags[ALARM_TAG]),
        "prompt": short(tags.get("affectgpt.prompt", "")),
        "git_commit": short(tags.get("git_commit", "unknown")),
        "command": short(tags.get("command", "")),
        "steps": last + 1 if last else None,  # Lightning counts from 0
        "date": _date(run.info.end_time or run.info.start_time),
    }


def _date(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return "unknown"


def _lexicon(source: Source, run: Any) -> str:
    """Return the lexicon that scored a run; a folder is opened only where the user names it, not the database."""
    named = str(renamed(run.data.params, current_param).get("emotion.lexicon", "bundled"))
    if named in ("bundled", *PUBLISHED_VERSIONS):
        return named
    if source.lexicon is None:
        raise ConfigError(
            f"MLflow run {run.info.run_id} was scored by the lexicon {short(named)!r}, a folder; if it is yours, name "
            "it by --lexicon FOLDER"
        )
    return source.lexicon


def is_number(value: float) -> bool:
    """Tell a number from NaN and from what MLflow stores for infinity."""
    return math.isfinite(value) and abs(value) < _LARGEST_METRIC


def short(text: str) -> str:
    """Cut a text that a stranger may have made long."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def read_answers(path: Path) -> list[Answer]:
    """Read a file of answers: ``test/answers.jsonl`` of a trial, ``predictions/<system>.jsonl`` of an evaluation."""
    answers = []
    place = "line 1"
    try:
        for number, row in json_lines(path):
            place = f"line {number}"
            target, openset = (tuple(map(str, row[key])) for key in ("target", "openset"))
            score = None if row["f1"] is None or not is_number(float(row["f1"])) else float(row["f1"])
            answers.append(Answer(short(str(row["name"])), target, openset, str(row["completion"]), score))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{path}, {place}: not an answer ({short(repr(error))}); delete its run and repeat it"
        ) from error
    return answers


def _missing_seeds(name: str, trials: Sequence[Trial]) -> list[str]:
    """Name seeds that a choice lacks and another has; a policy that was not trained, and has no curves, needs one."""
    seeds = sorted({trial.seed for trial in trials})
    lines = []
    for choice in dict.fromkeys(trial.choice for trial in trials):
        own = {trial.seed for trial in trials if trial.choice == choice}
        lacking = [str(seed) for seed in seeds if seed not in own]
        if lacking and any(trial.curves for trial in trials if trial.choice == choice):
            lines.append(f"{name} sweep: {choice} lacks seed {', '.join(lacking)}")
    return lines


def _read_clips(source: Source, run: Any) -> tuple[tuple[Clip, ...], list[str]]:
    """Return the clips to show, and what of them is left out."""
    kinds = {"name": str, "subtitle": str | None, "target": list, "frames": list}
    clips, lacking = [], []
    for row in _rows(source, run, "clips/clips.json", kinds) or []:
        name = short(row["name"])
        images = []
        for frame in row["frames"]:
            try:
                images.append(_image(source, run, f"clips/{frame}"))
            except DataError as error:
                lacking.append(f"a frame of {name} is left out: {error}")
        target = tuple(short(str(word)) for word in row["target"])
        clips.append(Clip(name, row["subtitle"] or "", target, tuple(filter(None, images))))
    return tuple(clips), lacking


def _image(source: Source, run: Any, path: str) -> bytes | None:
    """Return a PNG file, None if there is none.

    Raises:
        DataError: It is something else, or too large to be shown.
    """
    file = find_artifact(run, path, source.outputs)
    if file is None:
        return None
    content = file.read_bytes()
    sides = [int.from_bytes(content[start : start + 4], "big") for start in (len(_PNG), len(_PNG) + 4)]
    if not content.startswith(_PNG) or not all(0 < side <= _LARGEST_IMAGE for side in sides):
        raise DataError(f"{file} is not a PNG file of at most {_LARGEST_IMAGE} pixels a side")
    return content


def _rows(source: Source, run: Any, path: str, kinds: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of a JSON artifact, None if there is none.

    Args:
        source: Where runs are read from.
        run: The MLflow run.
        path: Of the artifact.
        kinds: Type of each field of a row.

    Raises:
        DataError: It is not JSON, or a row lacks a field of its type.
    """
    file = find_artifact(run, path, source.outputs)
    if file is None and path in ARTIFACTS:
        file = find_artifact(run, ARTIFACTS[path], source.outputs)
    if file is None:
        return None
    try:
        content = read_json(file)
    except ValueError as error:
        raise DataError(f"{file}: this is not JSON ({error}); run `make ablations` again") from error
    rows = content if isinstance(content, list) else [content]
    for place, row in enumerate(rows, start=1):
        for key, kind in kinds.items():
            if not isinstance(row, dict) or key not in row or not isinstance(row[key], kind):
                raise DataError(f"{file}, row {place}: has no {key!r} of the kind that a sweep logs; run it again")
    return rows
