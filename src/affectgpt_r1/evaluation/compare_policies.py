"""Compare trained policies on the test split, each as its own checkpoint says it was trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich.table import Table

from affectgpt_r1.config.compose import instantiate, resolved
from affectgpt_r1.config.instantiate import answer_sampling, build_data, build_policy, encode_clips
from affectgpt_r1.config.policy_config import lay_over, settings_of_checkpoint
from affectgpt_r1.config.prepare_process import prepare_process
from affectgpt_r1.config.run_lock import owned
from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.splits import evaluated_rows
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.compare import (
    Answers,
    answer_lines,
    common_clips,
    decode_answers,
    differences,
    score_labels,
    system_summary,
)
from affectgpt_r1.evaluation.compared_runs import describe_run, find_checkpoints
from affectgpt_r1.evaluation.log_evaluation import log_evaluation
from affectgpt_r1.evaluation.systems import alike, comparison_notes, one_lexicon
from affectgpt_r1.evaluation.tables import evaluation_tables
from affectgpt_r1.io.files import write_text
from affectgpt_r1.metrics.constant_baselines import CONSTANT_ANSWER, best_constant_answer
from affectgpt_r1.metrics.functional.wheel_f1 import wheel_counts
from affectgpt_r1.policy.checkpoint import load_policy_weights
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.tracking.mlflow_logger import mlflow_loggers
from affectgpt_r1.tracking.run_status import tracked_run
from affectgpt_r1.types import ClipBatch, EmotionSet

log = logging.getLogger(__name__)

PAIRS = (("grpo", "sft"), ("grpo", "control"), ("control", "sft"))


def evaluate(config: DictConfig, show: Callable[[Table], None]) -> dict[str, float]:
    """Decode every system's answers greedily, score them, show the tables, write and log them.

    Args:
        config: The composed ``configs/evaluate.yaml``.
        show: Prints a table.

    Returns:
        The logged metrics, such as ``test/grpo/f1``.

    Raises:
        ConfigError: Another evaluation writes into the same folder.
    """
    prepare_process(config)
    folder = Path(config.paths.run)
    loggers = list((instantiate(config.logger, "logger") or {}).values())
    with owned(folder), tracked_run(loggers):
        summary = compare_policies(config, loggers)
        for table in evaluation_tables(summary):
            show(table)
        return log_evaluation(loggers, summary, folder)


def compare_policies(config: DictConfig, loggers: Sequence[Logger]) -> dict[str, Any]:
    """Return the evaluation's summary: systems that have a checkpoint, constant baselines, paired differences.

    Each system reads, asks and answers as it was trained, by its checkpoint. Only clips that all could read count.

    Raises:
        CheckpointError: No system has a checkpoint, one that was asked for is missing, one does not fit, or an
            override contradicts its settings.
        ConfigError: The systems were trained with different lexicons, and none is chosen.
        DataError: The lexicon knows none of the clips' labels.
    """
    checkpoints = find_checkpoints(config)
    runs = {name: describe_run(checkpoint, config.paths.outputs) for name, checkpoint in checkpoints.items()}
    for name, run in runs.items():
        log.info("%s: %s, step %s, seed %s", name, run["checkpoint"], run["step"], run["seed"])
    laid = {name: lay_over(config, settings_of_checkpoint(path)) for name, path in checkpoints.items()}
    settings = {name: own for name, (own, _) in laid.items()}
    lexicon = load_lexicon(one_lexicon(settings))
    for logger in mlflow_loggers(loggers):
        logger.log_config(resolved(settings["grpo" if "grpo" in settings else next(iter(settings))]))
    answers: dict[str, dict[str, Answers]] = {}
    labels: list[EmotionSet] = []
    for names in alike(settings):
        alike_systems = {name: checkpoints[name] for name in names}
        decoded, data = _decoded(settings, alike_systems, lexicon, [] if answers else loggers)
        answers |= decoded
        labels = labels or [row.labels for row in data.splits.validation]
    unreadable = common_clips(answers)
    summary: dict[str, Any] = {
        "synthetic": config.synthetic,
        "lexicon": lexicon.name,
        "experiment": config.experiment_name,
        "split": config.split,
        "runs": runs,
        "notes": comparison_notes({name: notes for name, (_, notes) in laid.items()}, settings),
    }
    predictions = Path(config.paths.run) / "predictions"
    for name in checkpoints:
        own = answers[name][""]
        without = {kind: answers[name][kind] for kind in settings[name].data.modalities}
        summary[name] = system_summary(own, without, lexicon)
        write_text(predictions / f"{name}.jsonl", answer_lines(own, lexicon, without))
    first = next(iter(answers.values()))[""]
    constant_answers = (CONSTANT_ANSWER, best_constant_answer(labels, lexicon))
    summary["num_clips"] = len(first.names)
    summary["unreadable_clips"] = [list(clip) for clip in unreadable]
    summary["baselines"] = {
        ", ".join(words): score_labels([words] * len(first.targets), first.targets, lexicon)
        for words in constant_answers
    }
    summary["differences"] = differences({name: own[""] for name, own in answers.items()}, PAIRS, lexicon)
    return summary


def _decoded(
    settings: Mapping[str, DictConfig], checkpoints: Mapping[str, str], lexicon: Lexicon, loggers: Sequence[Logger]
) -> tuple[dict[str, dict[str, Answers]], ClipDataModule]:
    """Answer the clips with systems that share model and media, by system and modality left out, ``""`` for none."""
    config = settings[next(iter(checkpoints))]
    policy = build_policy(config).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    data = build_data(config)
    encode_clips(data, policy)
    for logger in mlflow_loggers(loggers):
        files = [file for file in data.label_files() if file.split == config.split]
        logger.log_data(data.digest(), config.synthetic, files=files)
    batches = _embedded_clips(config, policy, data, lexicon)
    answers = {}
    for name, checkpoint in checkpoints.items():
        load_policy_weights(policy, checkpoint)
        sampling = answer_sampling(settings[name])
        kinds = settings[name].data.modalities
        answers[name] = {"": decode_answers(policy, batches, sampling)}
        answers[name] |= {kind: decode_answers(policy, batches, sampling, without=kind) for kind in kinds}
    return answers, data


def _embedded_clips(
    config: DictConfig, policy: MultimodalPolicy, data: ClipDataModule, lexicon: Lexicon
) -> list[ClipBatch]:
    """Return the clips with encoded media, once for all systems; unreadable ones stay listed in their batch."""
    rows = evaluated_rows(data.splits, config.split, config.num_clips)
    check_targets(rows, lexicon, config.split)
    batches = data.evaluation_loader(rows)
    return [
        policy.with_features(batch_to_device(batch, policy.device))
        for batch in batches
        if len(batch) or batch.unreadable
    ]


def check_targets(rows: Sequence[ManifestRow], lexicon: Lexicon, split: str) -> None:
    """Refuse clips that cannot be scored.

    Raises:
        DataError: There are none, or the lexicon knows none of their labels.
    """
    labels = [row.labels for row in rows]
    if not rows:
        key = f"data.{split}_labels"
        raise DataError(f"{key} names no clips: give {key}=FILE, or another split=")
    if not bool((wheel_counts(labels, labels, lexicon).relevant > 0).any()):
        raise DataError(
            f"split={split}: no label of its {len(rows)} clips is on a wheel of the {lexicon.name} lexicon, so no "
            "answer can be scored; give labels in the lexicon's language, or another emotion.lexicon="
        )
