"""Read what ``evaluate`` compared, SFT, control and GRPO, in the form of a sweep whose seeds are evaluations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image

from affectgpt_r1.data.layouts.manifest import read_columns
from affectgpt_r1.data.layouts.mer import is_safe_name, video_file
from affectgpt_r1.data.media.video import read_frames
from affectgpt_r1.emotion.lexicon import PUBLISHED_VERSIONS
from affectgpt_r1.errors import ConfigError, DataError, MediaError
from affectgpt_r1.io.untrusted_files import read_json, read_text
from affectgpt_r1.report.completion_examples import spread
from affectgpt_r1.report.queries import (
    SWEEPS,
    Answer,
    Clip,
    Source,
    Sweep,
    Trial,
    is_number,
    open_runs,
    read_answers,
    read_training,
    short,
)

BASELINE = "sft"
SYSTEMS = ("sft", "control", "grpo")
_FRAMED, _FRAMES, _FRAME_SIZE = 12, 3, 160
_SEED = re.compile(r"(.*)-seed[0-9]{1,9}")
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def read_evaluations(outputs: Path, data: Path, lexicon: str | None = None) -> list[Sweep]:
    """Return one sweep per experiment below ``outputs`` that was evaluated, over its seeds.

    Scores and answers are those of ``<experiment>/summary.json`` and ``predictions/``, of the newest of several
    evaluations of a seed; curves are the runs' in MLflow.

    Args:
        outputs: The folder that holds ``mlflow.db``.
        data: The data folder; subtitles of the clips are read from it.
        lexicon: Folder of the lexicon of evaluations that were scored by one of the user's own.

    Raises:
        ConfigError: As of :func:`~affectgpt_r1.report.queries.read_sweeps`.
        DataError: A file of an evaluation is damaged.
    """
    files = [*outputs.glob("*/summary.json"), *outputs.glob("*/evaluate*/summary.json")]
    found: dict[str, dict[int, tuple[Path, dict[str, Any]]]] = {}
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        summary = _read_summary(file)
        seed = next((run["seed"] for run in summary["runs"].values() if run["seed"] is not None), 0)
        name = re.sub(r"[^\w.-]", "-", _SEED.sub(r"\1", short(summary["experiment"])))
        name = f"{name}-policies" if name in SWEEPS else name
        found.setdefault(name, {})[seed] = file.parent, summary
    if not found:
        return []
    with open_runs(outputs, lexicon) as source:
        return [_read_experiment(source, name, seeds, data) for name, seeds in sorted(found.items())]


def _read_summary(file: Path) -> dict[str, Any]:
    try:
        summary = read_json(file)
        for system, run in summary["runs"].items():
            if not (isinstance(run["checkpoint"], str) and isinstance(run["seed"], int | None)):
                raise ValueError(f"the run of {system} has no checkpoint or seed")
            if not 0 <= _metrics(summary[system])["test/f1"] <= 1:
                raise ValueError(f"{system} has an F1 that is not between 0 and 1")
        if not isinstance(summary["experiment"], str):
            raise ValueError("its experiment is not a name")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{file}: not an evaluation ({short(repr(error))}); run `make evaluate` again") from error
    return dict(summary)


def _read_experiment(source: Source, name: str, seeds: Mapping[int, tuple[Path, dict[str, Any]]], data: Path) -> Sweep:
    trials, missing = [], []
    run_ids: defaultdict[str, list[str]] = defaultdict(list)
    compared = {system for _, summary in seeds.values() for system in summary["runs"]}
    for system in (system for system in SYSTEMS if system in compared):
        for seed, (folder, summary) in sorted(seeds.items()):
            if system not in summary["runs"]:
                missing.append(f"{name}: {system}, seed {seed} was not evaluated")
                continue
            answers = folder / "predictions" / f"{system}.jsonl"
            if not answers.is_file():
                missing.append(f"{name}: {system}, seed {seed} has no answers in {answers}")
                continue
            run = _mlflow_run(source, summary["runs"][system]["checkpoint"])
            if run is None:
                missing.append(f"{name}: {system}, seed {seed} has no run in MLflow, so no curves")
            else:
                run_ids[system].append(str(run.data.tags.get("mlflow.parentRunId", run.info.run_id)))
            trials.append(
                Trial(
                    choice=system,
                    seed=seed,
                    run_id=run.info.run_id if run else f"{system}-{seed}",
                    metrics=_metrics(summary[system]),
                    answers=tuple(read_answers(answers)),
                    lexicon=_lexicon(summary, source.lexicon),
                    **(read_training(source.client, run) if run else {}),
                )
            )
    clips, lacking = _clips(trials, data)
    judged = list(run_ids.values())[-1] if run_ids else []  # the last system is what the others are compared with
    return Sweep(
        name=name,
        baseline=BASELINE,
        synthetic=any(summary.get("synthetic") is not False for _, summary in seeds.values()),
        trials=tuple(trials),
        clips=clips,
        missing=(*missing, *(f"{name}: {line}" for line in lacking)),
        run_id=judged[-1] if judged else "",
        command=trials[-1].command if trials else "",
        other_seeds=tuple(judged[:-1]),
    )


def _mlflow_run(source: Source, checkpoint: str) -> Any:
    """Return the MLflow run that wrote a checkpoint, None if the database has none."""
    file = (source.outputs / checkpoint).parent.parent / "mlflow_run_id"
    if source.outputs not in file.resolve().parents or not file.is_file():
        return None
    run_id = read_text(file, most=100).strip()
    try:
        return source.client.get_run(run_id) if _RUN_ID.fullmatch(run_id) else None
    except MlflowException:
        return None


def _metrics(system: Mapping[str, Any]) -> dict[str, float]:
    """Name an evaluation's scores as a trial logs them."""
    answers = {f"answers/{key}": value for key, value in system.items() if isinstance(value, int | float)}
    drops = {f"without_{modality}/drop": part["drop"] for modality, part in system.get("without", {}).items()}
    scores = {**system["mean_level1"], **answers, **drops}
    return {f"test/{key}": float(value) for key, value in scores.items() if value is not None and is_number(value)}


def _lexicon(summary: Mapping[str, Any], folder: str | None) -> str:
    named = str(summary.get("lexicon", "bundled"))
    if named in ("bundled", *PUBLISHED_VERSIONS):
        return named
    if folder is None:
        raise ConfigError(
            f"an evaluation was scored by the lexicon {short(named)!r}, a folder; if it is yours, name it by --lexicon "
            "FOLDER"
        )
    return folder


def _clips(trials: Sequence[Trial], data: Path) -> tuple[tuple[Clip, ...], list[str]]:
    """Return the clips that were answered, those first on which the policies disagree most; they have frames.

    Subtitles and films are the data folder's, if it has them; else a sentence says so.
    """
    answers: dict[str, list[Answer]] = {}
    for trial in trials:
        for answer in trial.answers:
            if is_safe_name(answer.name):
                answers.setdefault(answer.name, []).append(answer)
    names = sorted(answers, key=lambda name: spread([answer.f1 for answer in answers[name]]), reverse=True)
    table = data / "subtitle_chieng.csv"
    subtitles = read_columns(table, "english") if table.is_file() else {}
    clips, lacking = [], []
    for place, name in enumerate(names):
        frames: tuple[bytes, ...] = ()
        film = video_file(data, name)
        if place < _FRAMED and film.is_file():
            try:
                frames = tuple(map(_png, read_frames(film, _FRAMES)))
            except MediaError as error:
                lacking.append(f"the frames of {name} are left out: {error}")
        clips.append(Clip(name, subtitles.get(name, ""), answers[name][0].target, frames))
    if clips and not any(clip.frames for clip in clips) and not lacking:
        lacking.append(f"{data} has no films of the clips, so no frames are shown; name the data folder by --data")
    return tuple(clips), lacking


def _png(frame: NDArray[Any]) -> bytes:
    image = Image.fromarray(frame)
    image.thumbnail((_FRAME_SIZE, _FRAME_SIZE))
    content = BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()
