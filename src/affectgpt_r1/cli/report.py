"""Write the report on evaluated policies and ablation sweeps, from MLflow: ``affectgpt-r1 report``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.config.run_lock import owned
from affectgpt_r1.io.clean_text import message, printable

build_report = lazy("report.build:build_report")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 report", description="Write the report on evaluated policies and ablation sweeps."
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="holds mlflow.db (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the report goes (OUTPUTS/report)")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/synthetic"),
        metavar="FOLDER",
        help="the evaluated clips, for frames and subtitles (%(default)s)",
    )
    parser.add_argument("--lexicon", metavar="FOLDER", help="the lexicon of runs that were scored by a folder of yours")
    for file in run_command(parser, report, arguments):
        print(printable(file))


def report(options: argparse.Namespace) -> list[Path]:
    """Write the report, and say on standard error which runs it took and what is missing.

    Raises:
        ConfigError: Another report is being written into the same folder.
    """
    folder = options.folder or options.outputs / "report"
    if not options.outputs.is_dir():  # else the lock would make it
        return list(build_report(options.outputs, folder, options.lexicon, options.data))
    with owned(folder, "choose another --folder"):
        files: list[Path] = build_report(options.outputs, folder, options.lexicon, options.data)
    summary = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    for name, sweep in summary["sweeps"].items():
        for run in sweep["runs"]:
            taken = f"{run['choice']}, seed {run['seed']}: MLflow run {run['run_id']}, commit {run['git_commit'][:7]}"
            print(message(f"{name}: {taken}"), file=sys.stderr)
    print(*map(message, summary["missing"]), sep="\n", file=sys.stderr)
    return files


if __name__ == "__main__":
    main()
