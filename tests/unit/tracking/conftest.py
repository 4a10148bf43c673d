import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from affectgpt_r1.tracking.database import ensure_database
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger

collect_ignore = ["conftest.py"]  # --doctest-modules would import two modules of this name


@pytest.fixture(scope="session")
def database_template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow_template")
    ensure_database(folder)
    return folder / "mlflow.db"


@pytest.fixture
def outputs(tmp_path, database_template):
    folder = tmp_path / "outputs"
    folder.mkdir()
    shutil.copy(database_template, folder / "mlflow.db")
    return folder


@pytest.fixture
def logger(outputs):
    return TrackedMLFlowLogger(outputs, "demo", run_name="grpo-seed1", stage="grpo", run_folder=outputs / "run")


@pytest.fixture
def read_artifact(logger):
    def read(path):
        run = logger.experiment.get_run(logger.run_id)
        return (Path(unquote(urlparse(run.info.artifact_uri).path)) / path).read_text(encoding="utf-8")

    return read
