"""Print the tables as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from affectgpt_r1.io.clean_text import markdown_text, one_line
from affectgpt_r1.report.result_tables import TEXT_COLUMNS, TextTable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": r"--",
    "≤": r"$\le$",
    "’": r"'",
    "“": r"``",
    "”": r"''",
}
_LIGATURES = ("--", "''", ",,")  # which LaTeX joins to a dash or a quotation mark


def markdown(tables: Sequence[TextTable], heading: str, summary: Mapping[str, Any]) -> str:
    """Return all tables as Markdown, after the findings and the sentences on what is missing."""
    parts, missing = [f"# {markdown_text(heading)}"], summary["missing"]
    for finding in summary["findings"]:
        parts += [markdown_text(finding[key]) for key in ("asked", "result", "certainty", "provenance")]
    if missing:
        parts.append("\n".join(["Missing:", "", *(f"- {markdown_text(line)}" for line in missing)]))
    for table in tables:
        rule = ["---", *["---:" if _is_metric(table, place) else "---" for place in range(1, len(table.columns))]]
        rows = [_row(table.columns), _row(rule, escape=False), *map(_row, table.rows)]
        notes = "  \n".join(markdown_text(note) for note in table.notes)
        parts += [f"## {markdown_text(table.title)}", "\n".join(rows), notes]
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[TextTable], heading: str, missing: Sequence[str]) -> str:
    """Return all tables as LaTeX floats for the package ``booktabs``."""
    parts = [f"% {one_line(heading)}", r"% Needs \usepackage{booktabs} and a LaTeX that reads UTF-8."]
    parts += [f"% Missing: {one_line(line)}" for line in missing]
    for table in tables:
        alignment = "l" + "".join("r" if _is_metric(table, place) else "l" for place in range(1, len(table.columns)))
        caption = f"{latex_text(table.title)}. {' '.join(map(latex_text, table.notes))}"
        parts += [
            r"\begin{table}",
            rf"  \caption{{{caption}}}",
            rf"  \label{{tab:{table.key}}}",
            r"  \small",
            rf"  \begin{{tabular}}{{{alignment}}}",
            r"    \toprule",
            f"    {_latex_row(table.columns)}",
            r"    \midrule",
            *(f"    {_latex_row(row)}" for row in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def latex_text(text: str) -> str:
    r"""Escape text for LaTeX.

    >>> print(latex_text("50 % ± 1"))
    50 \% $\pm$ 1
    """
    source = ""
    for character in one_line(text):
        printed = _LATEX.get(character, character)
        source += "{}" if source[-1:] + printed[0] in _LIGATURES else ""
        source += printed
    return source


def _row(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(markdown_text(cell) if escape else cell for cell in cells)} |"


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(map(latex_text, cells))} \\"


def _is_metric(table: TextTable, place: int) -> bool:
    """Tell whether a column holds metrics, which are set flush right."""
    return table.columns[place] not in TEXT_COLUMNS
