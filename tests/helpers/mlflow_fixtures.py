"""Fixtures for tests that write into an MLflow database; a ``conftest.py`` imports those that it offers."""

import shutil

import pytest

from affectgpt_r1.tracking.database import ensure_database
from helpers.shared import made_once


@pytest.fixture(scope="session")
def database_template(tmp_path_factory):
    """An empty MLflow database, made once for all workers: Alembic takes seconds."""
    return made_once(tmp_path_factory, "mlflow", ensure_database) / "mlflow.db"


@pytest.fixture
def outputs(tmp_path, database_template):
    """An outputs folder with a database of its own."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    shutil.copy(database_template, folder / "mlflow.db")
    return folder
