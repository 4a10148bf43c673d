"""Every metric of the report as one plain dict: what ``tables.json`` holds, and what every table is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from affectgpt_r1.report.choices import label
from affectgpt_r1.report.directions import judge_directions
from affectgpt_r1.report.paired_comparison import compare, disagreement
from affectgpt_r1.report.published_results import PUBLISHED, PUBLISHED_NOTE
from affectgpt_r1.report.queries import Cell, Sweep
from affectgpt_r1.report.statistics import CONFIDENCE, mean_interval

SYNTHETIC_NOTE = "Synthetic: measured on rendered demo clips, not on recorded people."
_PREFIX = "test/"


def summarise(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """The metrics of all sweeps.

    Returns:
        ``synthetic`` and its ``note``; ``confidence``; ``sweeps`` by name, each with ``baseline``, ``synthetic``,
        ``prompts``, ``clips`` (number of test clips), ``alarms`` (reward up, held-out F down), ``choices``
        (:func:`summarise_choice`) and ``runs``, the MLflow runs that were read; ``directions``; ``published``;
        ``missing``, a list of sentences. F, precision and recall are fractions.
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
                "prompts": sorted({cell.prompt for cell in sweep.cells} - {""}),
                "clips": max((len(cell.answers) for cell in sweep.cells), default=0),
                "alarms": [
                    {"choice": cell.choice, "seed": cell.seed, "step": cell.alarm} for cell in sweep.cells if cell.alarm
                ],
                "choices": {choice: summarise_choice(sweep, choice) for choice in sweep.choices},
                "runs": [
                    {"choice": cell.choice, "seed": cell.seed, "run_id": cell.run_id, "git_commit": cell.git_commit}
                    for cell in sweep.cells
                ],
            }
            for sweep in sweeps
        },
        "directions": judge_directions({sweep.name: sweep for sweep in sweeps}),
        "published": {"note": PUBLISHED_NOTE, "rows": [row._asdict() for row in PUBLISHED]},
        "missing": [line for sweep in sweeps for line in (*sweep.missing, *_disagreements(sweep))],
    }


def summarise_choice(sweep: Sweep, choice: str) -> dict[str, Any]:
    """A row of a sweep's tables.

    Returns:
        ``label``; ``metrics`` by name, each with ``values`` by seed, ``mean``, ``low``, ``high`` (None for one value)
        and ``n``; ``against_baseline``: None, or the tests ``clips`` and ``seeds``, each None where it cannot be made.
    """
    cells = sweep.of(choice)
    names = [name for name in cells[0].metrics if name.startswith(_PREFIX)]
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
        "metrics": {name.removeprefix(_PREFIX): _over_seeds(cells, name) for name in names},
        "against_baseline": tests,
    }


def _over_seeds(cells: Sequence[Cell], name: str) -> dict[str, Any]:
    values = {str(cell.seed): cell.metrics[name] for cell in cells if name in cell.metrics}
    return {"values": values, **mean_interval(list(values.values()))._asdict()}


def _disagreements(sweep: Sweep) -> list[str]:
    return [
        f"{sweep.name} sweep: {cell.choice}, seed {cell.seed}: {found}"
        for cell in sweep.cells
        if (found := disagreement(cell)) is not None
    ]
