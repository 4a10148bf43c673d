"""The report as one HTML file that asks for nothing else: computed here, laid out by ``templates/``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import question, title
from affectgpt_r1.report.cluster_wheels import cluster_wheels
from affectgpt_r1.report.completion_examples import FILTERS, SORTS, completion_examples
from affectgpt_r1.report.curves import FRAME, curve_figures
from affectgpt_r1.report.queries import Sweep
from affectgpt_r1.report.result_tables import TEXT_COLUMNS, directions_table, published_table, sweep_tables

# Control characters and halves of surrogate pairs, which neither HTML nor UTF-8 can hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def heading(summary: Mapping[str, Any]) -> str:
    """Return the title of the report in every format."""
    text = "Rewards, reasoning and length penalties"
    if not summary["directions"]:
        text = f"{', '.join(map(title, summary['sweeps']))}"
    return f"{text}: synthetic demo clips" if summary["synthetic"] else text


def page(summary: Mapping[str, Any], sweeps: Sequence[Sweep], lexicon: Lexicon) -> str:
    """Return the HTML document: tables from ``summary``, curves and completions from ``sweeps``."""
    sections = {sweep.name: title(sweep.name) for sweep in sweeps}
    if summary["directions"]:
        sections["directions"] = "Directions"
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=heading(summary),
            note=summary["note"].removeprefix("Synthetic: ").capitalize(),
            mark=_mark(summary["synthetic"]),
            missing=summary["missing"],
            written=summary["written"],
            findings=summary["findings"],
            sections={**sections, "completions": "Completions", "published": "From the papers"},
            directions=directions_table(summary) if summary["directions"] else None,
            published=published_table(summary),
            sweeps=[_sweep(summary, sweep, lexicon) for sweep in sweeps],
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
    result.globals |= {"text_columns": TEXT_COLUMNS, "frame": FRAME, "sorts": SORTS, "filters": FILTERS}
    return result


def _printed(value: Any) -> Any:
    """Round a coordinate, and replace characters that HTML cannot hold; Jinja escapes the result."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value  # a macro's Markup is finished


def _sweep(summary: Mapping[str, Any], sweep: Sweep, lexicon: Lexicon) -> dict[str, Any]:
    figures, absent = curve_figures(sweep)
    return {
        "name": sweep.name,
        "question": question(sweep.name),
        "tables": sweep_tables(summary, sweep.name),
        "mark": _mark(sweep.synthetic),
        "figures": figures,
        "wheels": cluster_wheels(sweep, lexicon),
        "absent": absent,
        "missing": sweep.missing,
    }


def _mark(synthetic: bool) -> str:
    return " (synthetic clips)" if synthetic else ""
