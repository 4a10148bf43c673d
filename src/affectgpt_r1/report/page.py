"""The report as one HTML file that asks for nothing else: style and metrics stand in it, and it runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import QUESTIONS, TITLES
from affectgpt_r1.report.completion_examples import completions_section
from affectgpt_r1.report.curves import curve_metrics
from affectgpt_r1.report.markup import Child, Markup, element, join
from affectgpt_r1.report.queries import Sweep
from affectgpt_r1.report.result_tables import (
    TEXT_COLUMNS,
    TextTable,
    directions_table,
    published_table,
    sweep_tables,
)
from affectgpt_r1.report.style import STYLE

# A second lock beside escaping: no script, no request, whatever stands in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CURVES_NOTE = (
    "Line: mean over seeds; band: lowest to highest seed; pale lines: the other choices. Longer curves are averaged "
    "over 40 stretches of equal length. The metric at the end is the last value drawn."
)


def heading(summary: Mapping[str, Any]) -> str:
    """The title of the report in every format."""
    title = "Rewards, reasoning and length penalties"
    return f"{title}: synthetic demo clips" if summary["synthetic"] else title


def page(summary: Mapping[str, Any], sweeps: Sequence[Sweep], lexicon: Lexicon) -> str:
    """The HTML document.

    Args:
        summary: All metrics.
        sweeps: Where the curves and the completions are.
        lexicon: Whose wheel is drawn.
    """
    title = heading(summary)
    sections = {"directions": "Directions", **{s.name: TITLES[s.name] for s in sweeps}}
    sections |= {"completions": "Completions", "published": "From the papers"}
    links = [element("a", text, href=f"#{key}") for key, text in sections.items()]
    banner = element(
        "p", element("strong", "Synthetic. "), summary["note"].removeprefix("Synthetic: ").capitalize(), class_="banner"
    )
    body = [
        element("header", element("h1", title), banner if summary["synthetic"] else "", element("nav", links)),
        _missing(summary),
        _section("directions", sections["directions"], table_html(directions_table(summary))),
        [_sweep_section(summary, sweep) for sweep in sweeps],
        _completions(sweeps, lexicon, summary["synthetic"]),
        _section("published", sections["published"], table_html(published_table(summary))),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    ]
    document = element("html", element("head", head), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def table_html(table: TextTable) -> Markup:
    """A table with its title and notes."""
    head = [element("th", column, class_=_cell_class(column), scope="col") for column in table.columns]
    rows = [
        element("tr", [_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)])
        for row in table.rows
    ]
    notes = [element("p", note) for note in table.notes]
    return join(
        [
            element("h3", table.title),
            element(
                "div",
                element("table", element("thead", element("tr", head)), element("tbody", rows)),
                class_="scroll",
                tabindex="0",
                role="region",
                aria_label=table.title,
            ),
            element("div", notes, class_="notes"),
        ]
    )


def _cell(column: str, text: str) -> Markup:
    if column == "verdict":
        return element("td", element("span", text, class_=f"verdict {text.replace(' ', '-')}"), class_="text")
    return element("td", text, class_="baseline" if text == "baseline" else _cell_class(column))


def _cell_class(column: str) -> str | None:
    if column == "published direction":
        return "text wrap"
    return "text" if column in TEXT_COLUMNS else None


def _section(key: str, title: str, *children: Child) -> Markup:
    return element("section", element("h2", title), children, id=key)


def _missing(summary: Mapping[str, Any]) -> Markup:
    if not summary["missing"]:
        return Markup("")
    lines = [element("li", line) for line in summary["missing"]]
    return element("section", element("h3", "Missing"), element("ul", lines), id="missing")


def _sweep_section(summary: Mapping[str, Any], sweep: Sweep) -> Markup:
    tables = sweep_tables(summary, sweep.name)
    if not tables:
        return _section(sweep.name, TITLES[sweep.name], element("p", *sweep.missing or ("No cell is finished.",)))
    title = "Curves (synthetic clips)" if sweep.synthetic else "Curves"
    return _section(
        sweep.name,
        TITLES[sweep.name],
        element("p", QUESTIONS[sweep.name], class_="question"),
        [table_html(table) for table in tables],
        element("h3", title),
        element("p", _CURVES_NOTE, class_="note"),
        curve_metrics(sweep),
    )


def _completions(sweeps: Sequence[Sweep], lexicon: Lexicon, synthetic: bool) -> Markup:
    cards = completions_section(sweeps, lexicon)
    title = "Completions (synthetic clips)" if synthetic else "Completions"
    return _section("completions", title, cards or element("p", "No clip was logged to be shown."))
