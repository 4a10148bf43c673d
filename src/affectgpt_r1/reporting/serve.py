"""Serve the MLflow pages of ``outputs/`` on this machine only: ``python -m affectgpt_r1.reporting.serve``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from affectgpt_r1.reporting.database import ensure_database

HOST = "127.0.0.1"


def server_command(folder: Path, port: int) -> list[str]:
    """The ``mlflow server`` command for the database in ``folder``, bound to this machine.

    Args:
        folder: The outputs folder.
        port: TCP port.
    """
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--backend-store-uri", ensure_database(folder), "--artifacts-destination", str(folder / "artifacts")),
    ]


def main() -> None:
    """Replace this process by the server."""
    parser = argparse.ArgumentParser(description="Browse the runs in MLflow, on this machine only.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds mlflow.db")
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    command = server_command(arguments.outputs.resolve(), arguments.port)
    # MLflow opens on its pages for language-model applications; the runs are on these.
    print(f"http://{HOST}:{arguments.port}/#/experiments?workflowType=machine_learning", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
