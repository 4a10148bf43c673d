"""How MLflow's pages show this project's runs: links to them, the columns of their table, data, model and prompt.

The names of the tags are MLflow's own; its pages look for them.
"""

from __future__ import annotations

import json
from typing import Any

from affectgpt_r1.data.splits import LabelFile

HOST, PORT = "127.0.0.1", 5000

_VIEW = "runs"  # name of the stored view that the links open
_KIND_TAG, _VIEW_TAG = "mlflow.experimentKind", f"mlflow.sharedViewState.{_VIEW}"
_DIGEST_CHARACTERS = 16
# Without a schema the page of a data set says in large letters that there is none.
_SCHEMA = {"mlflow_colspec": [{"name": name, "type": "string", "required": True} for name in ("name", "labels")]}
_COLUMNS = (
    *("metrics.`test/f1`", "metrics.`val/f1`", "metrics.`val/kl`", "metrics.`train/reward`", "metrics.`train/loss`"),
    *("tags.`stage`", "tags.`baseline`", "params.`seed`", "tags.`hardware`"),
)


def experiment_tags() -> dict[str, str]:
    """Return the tags that make MLflow open an experiment on its runs, with the scores as columns of their table."""
    # Without a kind MLflow guesses, and shows the pages for language-model applications: "Traces 0".
    return {_KIND_TAG: "custom_model_development", _VIEW_TAG: json.dumps({"selectedColumns": _COLUMNS})}


def tag_experiment(client: Any, experiment: Any) -> None:
    """Give an experiment that an older version made the tags that it lacks."""
    for key, value in experiment_tags().items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def base_url(port: int = PORT) -> str:
    """Return the address of the pages of ``make mlflow``."""
    return f"http://{HOST}:{port}/#/"


def runs_link(experiment_id: str, port: int = PORT) -> str:
    """Return the address of an experiment's table of runs."""
    return f"{base_url(port)}experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}&workflowType=machine_learning"


def run_link(experiment_id: str, run_id: str, port: int = PORT) -> str:
    """Return the address of a run's page."""
    return f"{base_url(port)}experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def code(text: str) -> str:
    """Return text as code in a sentence of Markdown; it may hold backquotes.

    >>> code("ls"), code("a `b`")
    ('`ls`', '`` a `b` ``')
    """
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def dataset_input(file: LabelFile) -> Any:
    """Return a label file as MLflow lists it among a run's data sets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=file.path.name,
        digest=file.digest[:_DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": str(file.path)}),
        schema=json.dumps(_SCHEMA),
        profile=json.dumps({"num_clips": file.num_clips}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", file.split)])
