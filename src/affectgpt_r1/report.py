"""The report on the ablation sweeps: ``affectgpt-r1 report``. It reads MLflow only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1 import REPOSITORY
from affectgpt_r1.command import run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: With code 2 if there is nothing to report on, which is named in one line.
    """
    parser = argparse.ArgumentParser(prog="affectgpt-r1 report", description="Write the report on the ablation sweeps.")
    parser.add_argument("--outputs", type=Path, default=REPOSITORY / "outputs", help="holds mlflow.db (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the report goes (OUTPUTS/report)")
    for file in run_command(parser, report, arguments):
        print(file)


def report(options: argparse.Namespace) -> list[Path]:
    """Write the report; see :func:`~affectgpt_r1.reporting.report.build.build_report`."""
    from affectgpt_r1.reporting.report.build import build_report

    return build_report(options.outputs, options.folder or options.outputs / "report")


if __name__ == "__main__":
    main()
