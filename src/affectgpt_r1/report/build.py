"""Write the files of the report from the MLflow database."""

from __future__ import annotations

from pathlib import Path

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.plain_json import json_text
from affectgpt_r1.report.page import heading, page
from affectgpt_r1.report.queries import read_sweeps
from affectgpt_r1.report.result_tables import all_tables
from affectgpt_r1.report.summary import summarise
from affectgpt_r1.report.text_formats import latex, markdown


def build_report(outputs: Path, folder: Path, lexicon_folder: str | None = None) -> list[Path]:
    """Write ``report.html``, ``tables.md``, ``tables.tex`` and ``tables.json``.

    Args:
        outputs: The folder that holds ``mlflow.db``.
        folder: Where the files go; created if absent.
        lexicon_folder: See :func:`~affectgpt_r1.report.queries.read_sweeps`.

    Raises:
        ConfigError: Without an MLflow database, or an ablation in it.
        WriteError: If ``folder`` cannot be written.
        DataError: If an artifact of a sweep is damaged.
        LexiconError: If the lexicon of a run is not installed.
    """
    sweeps = read_sweeps(outputs, lexicon_folder)
    summary = summarise(sweeps)
    lexicon = load_lexicon(next((trial.lexicon for sweep in sweeps for trial in sweep.trials), "bundled"))
    tables, title = all_tables(summary), heading(summary)
    contents = {
        "report.html": page(summary, sweeps, lexicon),
        "tables.md": markdown(tables, title, summary["missing"]),
        "tables.tex": latex(tables, title, summary["missing"]),
        "tables.json": json_text(summary),
    }
    for name, text in contents.items():
        write_text(folder / name, text, elsewhere="choose another --folder")
    return [folder / name for name in contents]
