"""Open the report with what was asked, what came out and how sure one can be, in words made from the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from affectgpt_r1.report.choices import label
from affectgpt_r1.report.formats import between, number, points, signed

_SHOWN = 10  # characters of a commit, and a whole date


class Finding(NamedTuple):
    """One question of the report and its answer."""

    anchor: str
    asked: str
    result: str
    certainty: str
    provenance: str


def findings(summary: Mapping[str, Any]) -> list[Finding]:
    """Return a finding per sweep that has finished trials."""
    return [
        Finding(name, sweep["question"], _result(name, sweep), _certainty(name, sweep), _provenance(sweep))
        for name, sweep in summary["sweeps"].items()
        if sweep["choices"]
    ]


def _result(name: str, sweep: Mapping[str, Any]) -> str:
    scores = {choice: content["metrics"]["f1"]["mean"] for choice, content in sweep["choices"].items()}
    ordered = sorted(scores, key=lambda choice: -scores[choice])
    listed = ", ".join(f"{label(name, choice)} {points(scores[choice])}" for choice in ordered)
    words = _words(name, sweep, ordered) if name == "penalty" else ""
    seeds = sorted({run["seed"] for run in sweep["runs"]})
    over = f"the mean of seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    return f"F1 in points on {sweep['clips']:,} test clips, {over}: {listed}.{words}"


def _provenance(sweep: Mapping[str, Any]) -> str:
    runs = sweep["runs"]
    seeds, commits, dates = (
        ", ".join(sorted({str(run[key])[:_SHOWN] for run in runs} - {""})) for key in ("seed", "git_commit", "date")
    )
    steps = max((run["steps"] or 0 for run in runs), default=0)
    count = len({run["run_id"] for run in runs})
    named = f"seed{'s' if ',' in seeds else ''} {seeds}"
    known = (f", up to {steps:,} steps" * (steps > 0), f"; commits {commits}", f"; ended on {dates}" * bool(dates))
    text = f"{count} runs, {named}{''.join(known)}."  # of runs that MLflow lacks, steps and dates are unknown
    return f"{text} Command: {sweep['command']}" if sweep["command"] else text


def _words(name: str, sweep: Mapping[str, Any], choices: Sequence[str]) -> str:
    """Say how many words the answers and the targets have, which is what a length penalty is about."""
    metrics = {choice: sweep["choices"][choice]["metrics"] for choice in choices}
    keys = ("answers/distinct_words", "answers/target_words")
    if not all(key in metric for metric in metrics.values() for key in keys):
        return ""
    listed = ", ".join(f"{label(name, choice)} {number(metrics[choice][keys[0]]['mean'])}" for choice in choices)
    return f" Words per answer: {listed}; the target’s {number(metrics[choices[0]][keys[1]]['mean'])}."


def _certainty(name: str, sweep: Mapping[str, Any]) -> str:
    compared = [_compared(name, pair) for pair in sweep["comparisons"] if pair["clips"] or pair["seeds"]]
    parts = compared or ["Nothing was compared: a choice to compare with has no finished trial."]
    if len(sweep["choices"]) > 2 and len(sweep["comparisons"]) == 1:
        parts.append(
            f"That pair was chosen after the fact, as the best of {len(sweep['choices'])}: its interval is too narrow."
        )
    hacked: dict[str, list[str]] = {}
    for alarm in sweep["alarms"]:
        where = hacked.setdefault(label(name, alarm["choice"]), [])
        where.append(f"seed {alarm['seed']} from step {alarm['step']}")
    for choice, seeds in hacked.items():
        parts.append(
            f"{choice}, {', '.join(seeds)}: the reward rose while F1 on the validation clips fell, the mark of reward "
            "hacking."
        )
    if sweep["synthetic"]:
        parts.append("The clips are rendered: nothing is said on recorded people.")
    return " ".join(part[0].upper() + part[1:] for part in parts)


def _compared(name: str, pair: Mapping[str, Any]) -> str:
    clips, seeds = pair["clips"], pair["seeds"]
    difference = (clips or seeds)["difference"]
    named = ((clips, "over clips"), (seeds, "over seeds"), (pair["both"], "over both"))
    made = ((test, what) for test, what in named if test)
    bounds = ", ".join(f"{between(test['low'], test['high'], 100)} {what}" for test, what in made)
    names = f"{label(name, pair['first'])} minus {label(name, pair['second'])}"
    return f"{names}: {signed(100 * difference)} points, 95 % interval {bounds}: {_verdict(clips, seeds)}."


def _verdict(clips: Mapping[str, Any] | None, seeds: Mapping[str, Any] | None) -> str:
    """Say what two intervals allow; each asks another question, so that one cannot stand for the other."""
    by_clips, by_seeds = (test is not None and not test["low"] <= 0 <= test["high"] for test in (clips, seeds))
    if by_clips and by_seeds:
        return "neither the choice of the clips nor that of the seeds explains it"
    if by_clips and seeds is None:
        return "other clips would show it too; whether other seeds would, one seed cannot tell"
    if by_clips:
        return "these policies differ on other clips too, but training again need not give the difference"
    if by_seeds:
        return "the seeds agree on it, but other clips need not show it"
    return "no difference is shown"
