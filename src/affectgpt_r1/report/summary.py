"""All metrics of the report as one plain dict, which ``tables.json`` holds and every table is made from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import label, question
from affectgpt_r1.report.cluster_wheels import cluster_scores
from affectgpt_r1.report.curves import curve_figures
from affectgpt_r1.report.directions import judge_directions
from affectgpt_r1.report.opening import findings
from affectgpt_r1.report.paired_comparison import Comparison, compare, disagreement
from affectgpt_r1.report.published_results import PUBLISHED, PUBLISHED_NOTE
from affectgpt_r1.report.queries import PAPERS_SWEEPS, SWEEPS, Sweep, Trial
from affectgpt_r1.report.statistics import CONFIDENCE, mean_interval

SYNTHETIC_NOTE = "Synthetic: measured on rendered demo clips, not on recorded people."
_PREFIX = "test/"
_RUN = ("choice", "seed", "run_id", "git_commit", "steps", "date")


def summarise(sweeps: Sequence[Sweep], lexicon: Lexicon) -> dict[str, Any]:
    """Summarise all sweeps; ``lexicon`` is that of the drawn wheels.

    Returns:
        ``written``, the date; ``synthetic`` and its ``note``; ``confidence``; ``sweeps`` by name, each with
        ``question``, ``baseline``, ``synthetic``, ``prompts``, ``clips`` (number of test clips), ``alarms`` (reward up,
        validation F1 down), ``choices`` (:func:`summarise_choice`), ``comparisons``, those that the opening tells,
        ``command``, and ``runs``, the MLflow runs that were read; ``figures``, the numbers of every drawing by its
        anchor in the page; ``findings``, the opening's sentences; ``directions``; ``published``; ``missing``, a list of
        sentences. F1, precision and recall are fractions.
    """
    synthetic = any(sweep.synthetic for sweep in sweeps)
    summary: dict[str, Any] = {
        "written": f"{datetime.now(UTC):%Y-%m-%d}",
        "synthetic": synthetic,
        "note": SYNTHETIC_NOTE if synthetic else "",
        "confidence": CONFIDENCE,
        "sweeps": {
            sweep.name: {
                "question": question(sweep.name),
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
                "comparisons": [_compared(sweep, *pair) for pair in _pairs(sweep)],
                "command": sweep.command,
                "runs": [{key: getattr(trial, key) for key in _RUN} for trial in sweep.trials],
            }
            for sweep in sweeps
        },
        "figures": {key: figure for sweep in sweeps for key, figure in _figures(sweep, lexicon).items()},
        "directions": judge_directions({sweep.name: sweep for sweep in sweeps}) if _has_ablations(sweeps) else [],
        "published": {"note": PUBLISHED_NOTE, "rows": [row._asdict() for row in PUBLISHED]},
        "missing": [line for sweep in sweeps for line in (*sweep.missing, *_disagreements(sweep))],
    }
    return {**summary, "findings": [finding._asdict() for finding in findings(summary)]}


def summarise_choice(sweep: Sweep, choice: str) -> dict[str, Any]:
    """Summarise one choice, a row of a sweep's tables.

    Returns:
        ``label``; ``metrics`` by name, each with ``values`` by seed, ``mean``, ``low``, ``high`` (None for one value)
        and ``n``; ``against_baseline``: None, or the tests ``clips``, ``seeds`` and ``both``, None where they
        cannot be made.
    """
    trials = sweep.of(choice)
    names = [name for name in trials[0].metrics if name.startswith(_PREFIX)]
    return {
        "label": label(sweep.name, choice),
        "metrics": {name.removeprefix(_PREFIX): _over_seeds(trials, name) for name in names},
        "against_baseline": None if choice == sweep.baseline else _tests(sweep, choice, sweep.baseline),
    }


def _has_ablations(sweeps: Sequence[Sweep]) -> bool:
    return {sweep.name for sweep in sweeps} >= set(PAPERS_SWEEPS)


def _pairs(sweep: Sweep) -> list[tuple[str, str]]:
    """List the comparisons that answer a sweep's question: GRPO's, or the best choice's."""
    if sweep.name not in SWEEPS:
        return [("grpo", "sft"), ("grpo", "control")]
    # The reward sweep asks what is better than the policy without RL; its tables compare with another row.
    other = "none" if sweep.name == "reward" and sweep.of("none") else sweep.baseline
    means = {
        choice: fmean(trial.metrics["test/f1"] for trial in sweep.of(choice))
        for choice in sweep.choices
        if choice != other
    }
    return [(max(means, key=lambda choice: means[choice]), other)] if means else []


def _compared(sweep: Sweep, first: str, second: str) -> dict[str, Any]:
    tests = _tests(sweep, first, second) or dict.fromkeys(Comparison._fields)
    return {"first": first, "second": second, **tests}


def _tests(sweep: Sweep, first: str, second: str) -> dict[str, Any] | None:
    comparison = compare(sweep, first, second)
    if comparison is None:
        return None
    clips, seeds, both = comparison
    return {
        "clips": clips and {"difference": clips.estimate, "low": clips.low, "high": clips.high},
        "seeds": seeds and seeds._asdict(),
        "both": both and {"difference": both.estimate, "low": both.low, "high": both.high},
    }


def _figures(sweep: Sweep, lexicon: Lexicon) -> dict[str, Any]:
    """Return the numbers of a sweep's drawings by anchor."""
    curves = {
        figure["key"]: {key: figure[key] for key in ("title", "x", "y", "series")} for figure in curve_figures(sweep)[0]
    }
    return {**curves, f"{sweep.name}-wheel": cluster_scores(sweep, lexicon)}


def _over_seeds(trials: Sequence[Trial], name: str) -> dict[str, Any]:
    values = {str(trial.seed): trial.metrics[name] for trial in trials if name in trial.metrics}
    return {"values": values, **mean_interval(list(values.values()))._asdict()}


def _disagreements(sweep: Sweep) -> list[str]:
    return [
        f"{sweep.name} sweep: {trial.choice}, seed {trial.seed}: {problem}"
        for trial in sweep.trials
        if (problem := disagreement(trial)) is not None
    ]
