"""The report as one HTML file that asks for nothing else: computed here, laid out by ``templates/``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import QUESTIONS, TITLES
from affectgpt_r1.report.completion_examples import completion_examples
from affectgpt_r1.report.curves import FRAME, curve_figures
from affectgpt_r1.report.queries import Sweep
from affectgpt_r1.report.result_tables import TEXT_COLUMNS, directions_table, published_table, sweep_tables

# Control characters and halves of surrogate pairs, which neither HTML nor UTF-8 can hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def heading(summary: Mapping[str, Any]) -> str:
    """Return the title of the report in every format."""
    title = "Rewards, reasoning and length penalties"
    return f"{title}: synthetic demo clips" if summary["synthetic"] else title


def page(summary: Mapping[str, Any], sweeps: Sequence[Sweep], lexicon: Lexicon) -> str:
    """Return the HTML document: tables from ``summary``, curves and completions from ``sweeps``."""
    sections = {"directions": "Directions", **{sweep.name: TITLES[sweep.name] for sweep in sweeps}}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=heading(summary),
            note=summary["note"].removeprefix("Synthetic: ").capitalize(),
            mark=_mark(summary["synthetic"]),
            missing=summary["missing"],
            sections={**sections, "completions": "Completions", "published": "From the papers"},
            directions=directions_table(summary),
            published=published_table(summary),
            sweeps=[_sweep(summary, sweep) for sweep in sweeps],
            examples=completion_examples(sweeps, lexicon),
        )
    )


def environment() -> Environment:
    """Return Jinja's environment: whatever a template prints is escaped, and an undefined name is an error."""
    result = Environment(
        loader=PackageLoader("affectgpt_r1.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_printed,
    )
    result.globals |= {"text_columns": TEXT_COLUMNS, "frame": FRAME}
    return result


def _printed(value: Any) -> Any:
    """Round a coordinate, and replace characters that HTML cannot hold; Jinja escapes the result."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value  # a macro's Markup is finished


def _sweep(summary: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    figures, absent = curve_figures(sweep)
    return {
        "name": sweep.name,
        "question": QUESTIONS[sweep.name],
        "tables": sweep_tables(summary, sweep.name),
        "mark": _mark(sweep.synthetic),
        "figures": figures,
        "absent": absent,
        "missing": sweep.missing,
    }


def _mark(synthetic: bool) -> str:
    return " (synthetic clips)" if synthetic else ""
