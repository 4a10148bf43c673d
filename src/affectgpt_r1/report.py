"""The report on the ablation sweeps: ``affectgpt-r1 report``. It reads MLflow only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.errors import AffectGPTError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: With code 2 if there is nothing to report on, which is named in one line.
    """
    parser = argparse.ArgumentParser(prog="affectgpt-r1 report", description="Write the report on the ablation sweeps.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="holds mlflow.db (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the report goes (OUTPUTS/report)")
    options = parser.parse_args(arguments)
    from affectgpt_r1.reporting.report.build import build_report

    try:
        files = build_report(options.outputs, options.folder or options.outputs / "report")
    except AffectGPTError as error:
        print(f"affectgpt-r1 report: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for file in files:
        print(file)


if __name__ == "__main__":
    main()
