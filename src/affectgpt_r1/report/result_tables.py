"""Tables of the report as cells of text, which HTML, Markdown and LaTeX print alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from affectgpt_r1.report.choices import FORMULAS, label, title
from affectgpt_r1.report.directions import NOT_RUN, RULES
from affectgpt_r1.report.formats import (
    NOTHING,
    between,
    mean_and_half,
    number,
    points,
    probability,
    signed,
)
from affectgpt_r1.report.paired_comparison import BOTH_TEST, CLIPS_TEST, SEEDS_TEST, Comparison
from affectgpt_r1.report.summary import SYNTHETIC_NOTE

TEXT_COLUMNS = frozenset({"setting", "source", "verdict", "values", "F1 per seed", "date", "commit", "MLflow run"})
"""Columns that hold words; the others, but the first, hold metrics and are set flush right."""

_ANSWERS = (
    ("precision", "P", 100.0),
    ("recall", "R", 100.0),
    ("answers/distinct_words", "words", 1.0),
    ("answers/target_words", "target’s words", 1.0),
    ("answers/repeated_words", "repeated words", 1.0),
    ("answers/unmapped_rate", "unmapped, %", 100.0),
    ("answers/format_rate", "well formed, %", 100.0),
)


_DROPS = ("without_video", "without_audio", "without_text")


class TextTable(NamedTuple):
    """A table of text; the first column names the row, the others hold metrics.

    ``key`` names it in LaTeX labels.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def sweep_tables(summary: Mapping[str, Any], sweep: str) -> list[TextTable]:
    """Return the tables of one sweep, its scores and its answers; none if no trial is finished."""
    content = summary["sweeps"][sweep]
    choices = content["choices"]
    if not choices:
        return []
    synthetic = [SYNTHETIC_NOTE] if content["synthetic"] else []
    mark = " (synthetic clips)" if content["synthetic"] else ""
    scores = TextTable(
        f"{sweep}-scores",
        f"{title(sweep)}: scores{mark}",
        (_first_column(sweep), "n", "F1", "F1 per seed", "difference", "clips", "seeds", "p", "both"),
        tuple(_score_row(choice, name == content["baseline"]) for name, choice in choices.items()),
        (
            *synthetic,
            *([FORMULAS] if sweep == "penalty" else []),
            *_prompt(content),
            f"F1: greedy answers to {content['clips']:,} test clips with the weights of the best validation, "
            "which need not be the last; corpus F1, mean of five wheels at level 1, in points; mean ± 95 % t interval "
            f"over n seeds. Difference: of F1 from the row “{_baseline(content)}”, with its 95 % interval by three "
            f"tests, none corrected for the number of rows. {CLIPS_TEST} {SEEDS_TEST} {BOTH_TEST}",
        ),
    )
    answers = TextTable(
        f"{sweep}-answers",
        f"{title(sweep)}: answers{mark}",
        (_first_column(sweep), "n", *(column for _, column, _ in _ANSWERS)),
        tuple(_answer_row(choice) for choice in choices.values()),
        (
            *synthetic,
            "P, R: precision and recall of the same answers, in points. Words: distinct emotion words per answer. "
            "Repeated: words that the same answer has given before. Unmapped: words that no wheel knows. "
            "Mean ± 95 % t interval over n seeds, without ± where all seeds agree.",
            *_alarms(sweep, content),
        ),
    )
    runs = TextTable(
        f"{sweep}-runs",
        f"{title(sweep)}: runs{mark}",
        (_first_column(sweep), "seed", "steps", "date", "commit", "MLflow run"),
        tuple(_run_row(choices[run["choice"]]["label"], run) for run in content["runs"]),
        (*synthetic, "Date: the day on which the run ended, UTC.", *_commands(content)),
    )
    return [scores, answers, *_modalities(sweep, content), runs]


def _modalities(sweep: str, content: Mapping[str, Any]) -> list[TextTable]:
    """Tabulate the drop of F1 without each modality, where it was measured."""
    choices = [choice for choice in content["choices"].values() if f"{_DROPS[0]}/drop" in choice["metrics"]]
    if not choices:
        return []
    rows = (
        (
            choice["label"],
            str(choice["metrics"]["f1"]["n"]),
            *(_cell(choice["metrics"].get(f"{name}/drop"), 100.0) for name in _DROPS),
        )
        for choice in choices
    )
    mark = " (synthetic clips)" if content["synthetic"] else ""
    return [
        TextTable(
            f"{sweep}-modalities",
            f"{title(sweep)}: what each modality gives{mark}",
            (_first_column(sweep), "n", *(name.replace("_", " ") for name in _DROPS)),
            tuple(rows),
            (
                *([SYNTHETIC_NOTE] if content["synthetic"] else []),
                "Loss of F1 in points when a modality is masked in every clip; mean ± 95 % t interval over n seeds.",
            ),
        )
    ]


def _first_column(sweep: str) -> str:
    return title(sweep).partition(" of ")[0]


def _run_row(name: str, run: Mapping[str, Any]) -> tuple[str, ...]:
    steps = NOTHING if run["steps"] is None else f"{run['steps']:,}"
    return (name, str(run["seed"]), steps, run["date"] or NOTHING, run["git_commit"][:7], run["run_id"][:8])


def _commands(content: Mapping[str, Any]) -> list[str]:
    return [f"Command: {content['command']}"] if content["command"] else []


def directions_table(summary: Mapping[str, Any]) -> TextTable:
    """Return the verdicts on the published directions."""
    rules = list(dict.fromkeys(row["rule"] for row in summary["directions"]))
    rows = tuple(
        (row["direction"], row["verdict"], row["values"] or NOTHING, str(1 + rules.index(row["rule"])))
        for row in summary["directions"]
    )
    verdicts = [row["verdict"] for row in summary["directions"]]
    notes = [SYNTHETIC_NOTE] if summary["synthetic"] else []
    if NOT_RUN in verdicts:
        notes.append("Not run: the sweep lacks one of the choices.")
    mark = " (synthetic clips)" if summary["synthetic"] else ""
    return TextTable(
        "directions",
        f"Published directions{mark}",
        ("published direction", "verdict", "values", "rule"),
        rows,
        (*notes, *(f"Rule {place}: {RULES[rule]}." for place, rule in enumerate(rules, start=1))),
    )


def published_table(summary: Mapping[str, Any]) -> TextTable:
    """Return what the papers report, apart from all that is measured here."""
    published = summary["published"]
    rows = tuple((row["table"], row["setting"], number(row["points"]), row["source"]) for row in published["rows"])
    return TextTable(
        "published",
        "Scores from the papers (real clips; not comparable)",
        ("table", "setting", "F1 on OV-MERD+", "source"),
        rows,
        (published["note"],),
    )


def all_tables(summary: Mapping[str, Any]) -> list[TextTable]:
    """Return every table, in the order of the report."""
    sweeps = [table for sweep in summary["sweeps"] for table in sweep_tables(summary, sweep)]
    directions = [directions_table(summary)] if summary["directions"] else []
    return [*sweeps, *directions, published_table(summary)]


def _prompt(sweep: Mapping[str, Any]) -> list[str]:
    """Name the prompt mode, where the sweep does not vary it."""
    prompts = [label("reasoning", prompt) for prompt in sweep["prompts"]]
    return [f"Prompt mode of every row: {prompts[0]}."] if len(prompts) == 1 else []


def _alarms(name: str, sweep: Mapping[str, Any]) -> list[str]:
    runs = [f"{label(name, a['choice'])}, seed {a['seed']} (step {a['step']})" for a in sweep["alarms"]]
    return [f"Alarm, reward up while F1 on the validation clips went down: {'; '.join(runs)}."] if runs else []


def _baseline(sweep: Mapping[str, Any]) -> str:
    baseline = sweep["choices"].get(sweep["baseline"])
    return str(baseline["label"] if baseline else sweep["baseline"])


def _score_row(choice: Mapping[str, Any], is_baseline: bool) -> tuple[str, ...]:
    f1 = choice["metrics"]["f1"]
    tests = choice["against_baseline"] or {}
    clips, seeds, both = (tests.get(name) for name in Comparison._fields)
    either = clips or seeds
    return (
        choice["label"],
        str(f1["n"]),
        mean_and_half(f1["mean"], f1["high"], 100),
        ", ".join(points(value) for value in f1["values"].values()),
        "baseline" if is_baseline else signed(100 * either["difference"]) if either else NOTHING,
        *(between(test["low"], test["high"], 100) if test else NOTHING for test in (clips, seeds)),
        probability(seeds["p"]) if seeds else NOTHING,
        between(both["low"], both["high"], 100) if both else NOTHING,
    )


def _answer_row(choice: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = choice["metrics"]
    cells = (_cell(metrics.get(name), scale) for name, _, scale in _ANSWERS)
    return (choice["label"], str(metrics["f1"]["n"]), *cells)


def _cell(metric: Mapping[str, Any] | None, scale: float) -> str:
    if metric is None:
        return NOTHING
    constant = len(set(metric["values"].values())) == 1
    return mean_and_half(metric["mean"], None if constant else metric["high"], scale)
