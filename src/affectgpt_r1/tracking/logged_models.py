"""A run's best checkpoint as MLflow's logged model, and its prompt as MLflow's registered prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from affectgpt_r1.tracking.dashboard import code

FLAVOR = "affectgpt_r1"


def log_checkpoint(client: Any, run: Any, checkpoint: Path, step: int, tags: Mapping[str, str]) -> str:
    """List a checkpoint among a run's logged models, with its signature; the file stays where it is.

    Args:
        client: MLflow's.
        run: The MLflow run.
        checkpoint: The file.
        step: Of its weights.
        tags: Of the logged model.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = [ColSpec("string", "video"), ColSpec("string", "subtitle", required=False)]
    signature = ModelSignature(Schema(inputs), Schema([ColSpec("string", "completion")]))
    name = f"{run.info.run_name}-step{step}"
    load = f"affectgpt-r1 predict FILE --checkpoint {checkpoint}"
    model = client.create_logged_model(
        run.info.experiment_id,
        name=name.translate(_NOT_IN_NAMES),
        source_run_id=run.info.run_id,
        params={"checkpoint": str(checkpoint), "step": str(step)},
        tags={**tags, "mlflow.note.content": code(load)},
        model_type=FLAVOR,
    )
    # Not pickled, and not a copy: what loads it is `affectgpt-r1 predict --checkpoint`.
    flavor = {FLAVOR: {"checkpoint": str(checkpoint), "load": load}}
    described = Model(run_id=run.info.run_id, flavors=flavor, signature=signature, model_id=model.model_id)
    with TemporaryDirectory() as folder:
        described.save(str(Path(folder) / "MLmodel"))
        client.log_model_artifact(model.model_id, str(Path(folder) / "MLmodel"))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, models=[LoggedModelOutput(model.model_id, step)])
    return str(model.model_id)


def link_prompt(client: Any, run_id: str, name: str, template: str) -> int:
    """Link a run to its prompt in the registry, whose newest version gets a successor where the template differs.

    Args:
        client: MLflow's.
        run_id: The run.
        name: Of the prompt; letters that the registry refuses are replaced.
        template: With ``{{subtitle}}``.
    """
    name = name.translate(_NOT_IN_NAMES)
    newest = client.load_prompt(name, allow_missing=True, cache_ttl_seconds=0)
    if newest is None or newest.template != template:
        newest = client.register_prompt(name, template)
    client.link_prompt_version_to_run(run_id, newest)
    return int(newest.version)


_NOT_IN_NAMES = str.maketrans(dict.fromkeys("/:.%\"'+ =", "_"))
