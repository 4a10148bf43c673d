from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger
from helpers.mlflow_fixtures import database_template, outputs

__all__ = ["database_template", "outputs"]

collect_ignore = ["conftest.py"]  # --doctest-modules would import two modules of this name


@pytest.fixture
def logger(outputs):
    return TrackedMLFlowLogger(outputs, "demo", run_name="grpo-seed1", stage="grpo", run_folder=outputs / "run")


@pytest.fixture
def read_artifact(logger):
    def read(path):
        run = logger.experiment.get_run(logger.run_id)
        return (Path(unquote(urlparse(run.info.artifact_uri).path)) / path).read_text(encoding="utf-8")

    return read
