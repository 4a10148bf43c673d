"""Serve the MLflow pages of ``outputs/`` on this machine only: ``python -m affectgpt_r1.tracking.serve``."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import message, printable
from affectgpt_r1.tracking.artifacts import check_artifact_places
from affectgpt_r1.tracking.dashboard import HOST, base_url, runs_link, tag_experiment
from affectgpt_r1.tracking.database import DATABASE_NAME, ensure_database

_LINKS = 5


def server_command(folder: Path, port: int) -> list[str]:
    """Return the ``mlflow server`` command for the database in the outputs folder, bound to this machine."""
    uri = ensure_database(folder)
    check_artifact_places(folder / DATABASE_NAME)
    return [
        # One worker answers one person; each more is another 8 s of imports before the first page.
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", uri, "--artifacts-destination", str(folder / "artifacts")),
    ]


def links(folder: Path, port: int) -> list[tuple[str, str]]:
    """Return the pages to open: each experiment's table of runs, the newest first, by name."""
    client = MlflowClient(ensure_database(folder))
    newest = sorted(client.search_experiments(), key=lambda experiment: experiment.last_update_time, reverse=True)
    named = []
    for experiment in newest:
        if client.search_runs([experiment.experiment_id], max_results=1):
            tag_experiment(client, experiment)
            named.append((printable(experiment.name), runs_link(experiment.experiment_id, port)))
    # MLflow opens on its pages for language-model applications; these pages show the runs.
    return named[:_LINKS] or [("", f"{base_url(port)}experiments?workflowType=machine_learning")]


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
    for title, link in links(arguments.outputs.resolve(), arguments.port):
        print(f"{title}: {link}" if title else link, flush=True)
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONSAFEPATH": "1"}
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
