"""A trained policy's greedy answers to the test clips: the metrics and the answers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from affectgpt_r1.config.instantiate import answer_sampling
from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.data.recognition_datamodule import set_of_clip
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.evaluation.compare import Answers, answer_lines, decode_answers
from affectgpt_r1.io.files import write_text
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.metrics.functional.recognition import CLASSES, single_label_scores
from affectgpt_r1.policy.checkpoint import load_policy_weights
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.tracking.mlflow_logger import mlflow_loggers
from affectgpt_r1.training.completions import answer_statistics


def evaluate_best_weights(
    config: DictConfig,
    policy: MultimodalPolicy,
    data: ClipDataModule,
    loggers: Sequence[Logger],
    *,
    device: torch.device,
    step: int,
) -> dict[str, float]:
    """Answer the test clips with the weights of the best validation, and log metrics and answers.

    Args:
        config: The run's configuration.
        policy: The policy; it gets the best weights, if the run has stored any.
        data: The data module, set up.
        loggers: The run's loggers; with MLflow the answers are the artifact ``test/answers.jsonl``.
        device: Where the answers are decoded.
        step: Step to log at.

    Returns:
        See :func:`test_split_metrics`.
    """
    best = Path(config.paths.run) / "checkpoints" / "best.ckpt"
    if best.is_file():
        load_policy_weights(policy, best)
    policy.to(device).eval()
    lexicon = load_lexicon(config.emotion.lexicon)
    data.trainer = None  # no share of the clips, but all: this process answers alone
    batches = (
        policy.with_features(data.transfer_batch_to_device(batch, device, 0)) if len(batch) else batch
        for batch in data.test_dataloader()
    )
    answers = decode_answers(policy, batches, answer_sampling(config))
    metrics = test_split_metrics(answers, lexicon)
    text = answer_lines(answers, lexicon)
    write_text(Path(config.paths.run) / "test" / "answers.jsonl", text)
    for logger in loggers:
        logger.log_metrics(metrics, step=step)
        logger.save()
    for tracked in mlflow_loggers(loggers):
        tracked.log_text(text, "test/answers.jsonl")
    return metrics


def test_split_metrics(answers: Answers, lexicon: Lexicon) -> dict[str, float]:
    """Figures of greedy answers by log name.

    Args:
        answers: To the test clips.
        lexicon: The words' clusters.

    Returns:
        ``test/f1``, ``test/precision`` and ``test/recall`` (means over the five level-1 wheels, in [0, 1])
        and ``test/answers/<statistic>``; where every target is a single label, also ``test/<set>/war``, ``uar`` and
        ``unparsed_rate`` of each single-label set.
    """
    score = EmotionWheelScore(lexicon, sync_on_compute=False)  # other processes answer nothing
    score.update(answers.labels, answers.targets)
    scores = score.compute()
    statistics = answer_statistics(answers.completions, answers.targets, lexicon)
    return {
        **{f"test/{name}": float(scores[name]) for name in ("f1", "precision", "recall")},
        **{f"test/answers/{name}": float(value) for name, value in statistics.items()},
        **_recalls(answers),
    }


def _recalls(answers: Answers) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name in sorted({set_of_clip(clip) for clip in answers.names}):
        rows = [row for row, clip in enumerate(answers.names) if set_of_clip(clip) == name]
        scores = single_label_scores(
            [answers.labels[row] for row in rows], [answers.targets[row] for row in rows], CLASSES.get(name, ())
        )
        metrics |= {"/".join(filter(None, ("test", name, key))): value for key, value in scores.items()}
    return metrics
