"""Compare trained policies on held-out clips: ``python -m affectgpt_r1.evaluate``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from affectgpt_r1.config import CONFIGS, clear_errors, run_with_clear_errors

if TYPE_CHECKING:
    from affectgpt_r1.comparison import Answers
    from affectgpt_r1.data.datamodule import ClipDataModule
    from affectgpt_r1.data.manifest import ManifestRow
    from affectgpt_r1.emotion.wheels import Lexicon
    from affectgpt_r1.policy.policy import MultimodalPolicy
    from affectgpt_r1.types import ClipBatch

log = logging.getLogger(__name__)

PAIRS = (("grpo", "sft"), ("grpo", "control"), ("control", "sft"))


def evaluate(config: DictConfig) -> dict[str, float]:
    """Decode every system's answers greedily, score them, print the tables and write them down.

    Args:
        config: The composed ``configs/evaluate.yaml``.

    Returns:
        The logged metrics, such as ``test/grpo/f1``.

    Raises:
        ConfigError: Another evaluation writes into the same folder.
    """
    from rich.console import Console

    from affectgpt_r1.assembly import prepare_process
    from affectgpt_r1.config import instantiate, resolved
    from affectgpt_r1.reporting.evaluation import log_evaluation
    from affectgpt_r1.reporting.logger import mlflow_loggers
    from affectgpt_r1.reporting.tables import evaluation_tables
    from affectgpt_r1.reporting.tracking import tracked_run
    from affectgpt_r1.run_lock import owned

    prepare_process(config)
    folder = Path(config.paths.run)
    loggers = list((instantiate(config.logger) or {}).values())
    with owned(folder), tracked_run(loggers):
        for logger in mlflow_loggers(loggers):
            logger.log_config(resolved(config))
        summary = compare(config, loggers)
        for table in evaluation_tables(summary):
            Console().print(table)
        return log_evaluation(loggers, summary, folder)


def compare(config: DictConfig, loggers: list[Any]) -> dict[str, Any]:
    """The evaluation's summary: each system of ``systems`` whose checkpoint is there, sprays, paired differences.

    Raises:
        CheckpointError: No system has a checkpoint, one that was asked for is not there, or one does not fit.
        DataError: The lexicon knows none of the clips' labels.
    """
    import torch

    from affectgpt_r1.assembly import answer_sampling, build_data, build_policy, encode_clips
    from affectgpt_r1.compared_runs import describe_run, find_checkpoints
    from affectgpt_r1.comparison import answer_lines, decode_answers, differences, score_labels, system_summary
    from affectgpt_r1.emotion.lexicon import load_lexicon
    from affectgpt_r1.metrics.baselines import SPRAY, best_spray
    from affectgpt_r1.policy.checkpoint import load_policy_weights
    from affectgpt_r1.reporting.logger import mlflow_loggers

    lexicon = load_lexicon(config.emotion.lexicon)
    checkpoints = find_checkpoints(config)
    runs = {name: describe_run(checkpoint, config.paths.outputs) for name, checkpoint in checkpoints.items()}
    for name, run in runs.items():
        log.info("%s: %s, step %s, seed %s", name, run["checkpoint"], run["step"], run["seed"])
    policy = build_policy(config).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    data = build_data(config)
    encode_clips(data, policy)
    for logger in mlflow_loggers(loggers):
        logger.log_data(data.digest(), config.synthetic)
    batches = _embedded_clips(config, policy, data, lexicon)
    sampling = answer_sampling(config)
    answers: dict[str, Answers] = {}
    summary: dict[str, Any] = {
        "synthetic": config.synthetic,
        "lexicon": lexicon.name,
        "experiment": config.experiment_name,
        "split": config.split,
        "runs": runs,
    }
    predictions = Path(config.paths.run) / "predictions"
    predictions.mkdir(parents=True, exist_ok=True)
    for name, checkpoint in checkpoints.items():
        load_policy_weights(policy, checkpoint)
        answers[name] = decode_answers(policy, batches, sampling)
        without = {kind: decode_answers(policy, batches, sampling, without=kind) for kind in config.data.modalities}
        summary[name] = system_summary(answers[name], without, lexicon)
        (predictions / f"{name}.jsonl").write_text(answer_lines(answers[name], lexicon), encoding="utf-8")
    first = next(iter(answers.values()))
    sprays = (SPRAY, best_spray([row.labels for row in data.splits.validation], lexicon))
    summary["num_clips"] = len(first.names)
    summary["unreadable_clips"] = [list(clip) for clip in first.skipped]
    summary["baselines"] = {
        ", ".join(spray): score_labels([spray] * len(first.targets), first.targets, lexicon) for spray in sprays
    }
    summary["differences"] = differences(answers, PAIRS, lexicon)
    return summary


def _embedded_clips(
    config: DictConfig, policy: MultimodalPolicy, data: ClipDataModule, lexicon: Lexicon
) -> list[ClipBatch]:
    """The clips with their media as the policy's towers see them, once for all systems; unreadable ones stay listed."""
    from affectgpt_r1.data.collate import batch_to_device
    from affectgpt_r1.data.splits import evaluated_rows

    rows = evaluated_rows(data.splits, config.split, config.num_clips)
    _check_targets(rows, lexicon, config.split)
    batches = data.evaluation_loader(rows)
    return [
        policy.with_features(batch_to_device(batch, policy.device)) for batch in batches if len(batch) or batch.skipped
    ]


def _check_targets(rows: Sequence[ManifestRow], lexicon: Lexicon, split: str) -> None:
    from affectgpt_r1.errors import DataError
    from affectgpt_r1.metrics.functional.wheel import wheel_counts

    labels = [row.labels for row in rows]
    if not bool((wheel_counts(labels, labels, lexicon).relevant > 0).any()):
        raise DataError(
            f"split={split}: no label of its {len(rows)} clips stands on a wheel of the {lexicon.name} lexicon, so no "
            "answer can be scored; give labels in the lexicon's language, or another emotion.lexicon="
        )


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="evaluate")
def _entry(config: DictConfig) -> None:
    with clear_errors(config):
        evaluate(config)


def main() -> None:
    """The command line."""
    run_with_clear_errors(_entry)


if __name__ == "__main__":
    main()
