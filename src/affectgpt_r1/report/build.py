"""Write the files of the report, and attach them to the MLflow runs that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.plain_json import json_text
from affectgpt_r1.report.evaluations import read_evaluations
from affectgpt_r1.report.page import heading, page
from affectgpt_r1.report.queries import Sweep, open_runs, read_sweeps
from affectgpt_r1.report.result_tables import all_tables
from affectgpt_r1.report.summary import summarise
from affectgpt_r1.report.text_formats import latex, markdown
from affectgpt_r1.tracking.artifacts import artifact_folder

ARTIFACT_PATH = "report"


def build_report(
    outputs: Path, folder: Path, lexicon_folder: str | None = None, data: Path = Path("data/synthetic")
) -> list[Path]:
    """Write ``report.html``, ``tables.md``, ``tables.tex`` and ``tables.json``, on evaluations and on sweeps.

    MLflow gets copies as artifacts ``report/`` of each sweep's parent run and of each seed's evaluated GRPO run.

    Args:
        outputs: The folder that holds ``mlflow.db``.
        folder: Where the files go; created if absent.
        lexicon_folder: See :func:`~affectgpt_r1.report.queries.read_sweeps`.
        data: The data folder of the evaluated clips, for their frames and subtitles.

    Raises:
        ConfigError: Without an MLflow database, or an evaluation or ablation in it.
        WriteError: If ``folder`` cannot be written.
        DataError: If an artifact of a sweep is damaged.
        LexiconError: If the lexicon of a run is not installed.
    """
    sweeps = [*read_sweeps(outputs, lexicon_folder), *read_evaluations(outputs, data, lexicon_folder)]
    if not sweeps:
        raise ConfigError(
            f"{outputs}: no policy was evaluated and no sweep was run; run `make grpo` or `make ablations` first"
        )
    lexicon = load_lexicon(next((trial.lexicon for sweep in sweeps for trial in sweep.trials), "bundled"))
    summary = summarise(sweeps, lexicon)
    tables, title = all_tables(summary), heading(summary)
    contents = {
        "report.html": page(summary, sweeps, lexicon),
        "tables.md": markdown(tables, title, summary),
        "tables.tex": latex(tables, title, summary["missing"]),
        "tables.json": json_text(summary),
    }
    for name, text in contents.items():
        write_text(folder / name, text, elsewhere="choose another --folder")
    files = [folder / name for name in contents]
    _attach(outputs, sweeps, files)
    return files


def _attach(outputs: Path, sweeps: Sequence[Sweep], files: Sequence[Path]) -> None:
    with open_runs(outputs, None) as source:
        runs = [run_id for sweep in sweeps for run_id in (sweep.run_id, *sweep.other_seeds) if run_id]
        for run_id in dict.fromkeys(runs):
            # MLflow would write wherever the database says; artifact_folder refuses a place outside of the outputs.
            artifact_folder(source.client.get_run(run_id).info.artifact_uri, outputs, f"MLflow run {run_id}")
            for file in files:
                source.client.log_artifact(run_id, str(file), ARTIFACT_PATH)
