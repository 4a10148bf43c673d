"""Serve the MLflow pages of ``outputs/`` on this machine only: ``python -m affectgpt_r1.tracking.serve``."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import message
from affectgpt_r1.tracking.artifacts import check_artifact_places
from affectgpt_r1.tracking.database import DATABASE_NAME, ensure_database

HOST = "127.0.0.1"


def server_command(folder: Path, port: int) -> list[str]:
    """Return the ``mlflow server`` command for the database in the outputs folder, bound to this machine."""
    uri = ensure_database(folder)
    check_artifact_places(folder / DATABASE_NAME)
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--backend-store-uri", uri, "--artifacts-destination", str(folder / "artifacts")),
    ]


def check_port(port: int) -> None:
    """Raise a ConfigError unless the server can listen on ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a server that has just ended blocks the port
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} cannot be opened ({error}); give another: make mlflow ARGS='--port 5001'"
            ) from error


def main() -> None:
    """Replace this process by the server; exit with code 2 if the database cannot be used or the port is taken."""
    parser = argparse.ArgumentParser("make mlflow", description="Browse the runs in MLflow, on this machine only.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="holds mlflow.db (%(default)s)")
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    try:
        command = server_command(arguments.outputs.resolve(), arguments.port)
        check_port(arguments.port)
    except ConfigError as error:
        parser.exit(2, f"{message(f'{parser.prog}: {error}')}\n")
    # MLflow opens on its pages for language-model applications; these pages show the runs.
    print(f"http://{HOST}:{arguments.port}/#/experiments?workflowType=machine_learning", flush=True)
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONSAFEPATH": "1"}
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
