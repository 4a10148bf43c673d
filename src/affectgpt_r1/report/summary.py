"""All metrics of the report as one plain dict, which ``tables.json`` holds and every table is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from affectgpt_r1.report.choices import label
from affectgpt_r1.report.directions import judge_directions
from affectgpt_r1.report.paired_comparison import compare, disagreement
from affectgpt_r1.report.published_results import PUBLISHED, PUBLISHED_NOTE
from affectgpt_r1.report.queries import Sweep, Trial
from affectgpt_r1.report.statistics import CONFIDENCE, mean_interval

SYNTHETIC_NOTE = "Synthetic: measured on rendered demo clips, not on recorded people."
_PREFIX = "test/"


def summarise(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """Summarise all sweeps.

    Returns:
        ``synthetic`` and its ``note``; ``confidence``; ``sweeps`` by name, each with ``baseline``, ``synthetic``,
        ``prompts``, ``clips`` (number of test clips), ``alarms`` (reward up, validation F1 down), ``choices``
        (:func:`summarise_choice`) and ``runs``, the MLflow runs that were read; ``directions``; ``published``;
        ``missing``, a list of sentences. F1, precision and recall are fractions.
    """
    synthetic = any(sweep.synthetic for sweep in sweeps)
    return {
        "synthetic": synthetic,
        "note": SYNTHETIC_NOTE if synthetic else "",
        "confidence": CONFIDENCE,
        "sweeps": {
            sweep.name: {
                "baseline": sweep.baseline,
                "synthetic": sweep.synthetic,
                "prompts": sorted({trial.prompt for trial in sweep.trials} - {""}),
                "clips": max((len(trial.answers) for trial in sweep.trials), default=0),
                "alarms": [
                    {"choice": trial.choice, "seed": trial.seed, "step": trial.alarm}
                    for trial in sweep.trials
                    if trial.alarm
                ],
                "choices": {choice: summarise_choice(sweep, choice) for choice in sweep.choices},
                "runs": [
                    {"choice": trial.choice, "seed": trial.seed, "run_id": trial.run_id, "git_commit": trial.git_commit}
                    for trial in sweep.trials
                ],
            }
            for sweep in sweeps
        },
        "directions": judge_directions({sweep.name: sweep for sweep in sweeps}),
        "published": {"note": PUBLISHED_NOTE, "rows": [row._asdict() for row in PUBLISHED]},
        "missing": [line for sweep in sweeps for line in (*sweep.missing, *_disagreements(sweep))],
    }


def summarise_choice(sweep: Sweep, choice: str) -> dict[str, Any]:
    """Summarise one choice, a row of a sweep's tables.

    Returns:
        ``label``; ``metrics`` by name, each with ``values`` by seed, ``mean``, ``low``, ``high`` (None for one value)
        and ``n``; ``against_baseline``: None, or the tests ``clips`` and ``seeds``, each None where it cannot be made.
    """
    trials = sweep.of(choice)
    names = [name for name in trials[0].metrics if name.startswith(_PREFIX)]
    comparison = None if choice == sweep.baseline else compare(sweep, choice, sweep.baseline)
    tests = None
    if comparison is not None:
        clips, seeds = comparison
        tests = {
            "clips": clips and {"difference": clips.estimate, "low": clips.low, "high": clips.high},
            "seeds": seeds and seeds._asdict(),
        }
    return {
        "label": label(sweep.name, choice),
        "metrics": {name.removeprefix(_PREFIX): _over_seeds(trials, name) for name in names},
        "against_baseline": tests,
    }


def _over_seeds(trials: Sequence[Trial], name: str) -> dict[str, Any]:
    values = {str(trial.seed): trial.metrics[name] for trial in trials if name in trial.metrics}
    return {"values": values, **mean_interval(list(values.values()))._asdict()}


def _disagreements(sweep: Sweep) -> list[str]:
    return [
        f"{sweep.name} sweep: {trial.choice}, seed {trial.seed}: {problem}"
        for trial in sweep.trials
        if (problem := disagreement(trial)) is not None
    ]
