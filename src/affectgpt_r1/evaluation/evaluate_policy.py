"""Answer the test split with a trained policy; log the metrics and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from affectgpt_r1.config.instantiate import answer_sampling, build_policy
from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.data.recognition_datamodule import set_of_clip
from affectgpt_r1.distributed.collectives import gather_objects_to_rank_zero
from affectgpt_r1.distributed.sharding import full_state_dict, is_sharded
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.evaluation.compare import Answers, answer_lines, decode_answers, join_answers
from affectgpt_r1.io.files import write_text
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.metrics.functional.recognition import CLASSES, single_label_scores
from affectgpt_r1.policy.checkpoint import load_policy_weights, read_checkpoint
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger, mlflow_loggers
from affectgpt_r1.training.completions import answer_statistics


def evaluate_test_split(
    config: DictConfig, policy: MultimodalPolicy, data: ClipDataModule, trainer: L.Trainer, loggers: Sequence[Logger]
) -> dict[str, float]:
    """Answer the test clips with the weights of the best validation, and log metrics and answers.

    Each process answers its share of the clips, and the first one scores them all; the others return no metrics.
    Weights that were sharded are whole in the first process only, which then answers alone.

    Args:
        config: The run's configuration.
        policy: As trained; it gets the best weights, if the run has stored any.
        data: The data module, set up.
        trainer: Has trained.
        loggers: The run's loggers; with MLflow the answers are the artifact ``test/answers.jsonl``.

    Returns:
        See :func:`metrics_on_test_split`.
    """
    weights = full_state_dict(policy) if is_sharded(policy) else None
    if weights is not None:
        if not trainer.is_global_zero:
            return {}
        policy = build_policy(config)
        policy.load_state_dict(weights, strict=False)
        data.trainer = None  # else its sampler would yield this rank's share of the clips
    best = Path(config.paths.run) / "checkpoints" / "best.ckpt"
    step = trainer.global_step
    if best.is_file():
        load_policy_weights(policy, best)
        step = int(read_checkpoint(best, mmap=True)["global_step"])
    device = trainer.strategy.root_device
    policy.to(device).eval()
    lexicon = load_lexicon(config.emotion.lexicon)
    batches = (
        policy.with_features(data.transfer_batch_to_device(batch, device, 0)) if len(batch) else batch
        for batch in data.test_dataloader()
    )
    answers = decode_answers(policy, batches, answer_sampling(config))
    if weights is None:
        shares = gather_objects_to_rank_zero(answers)
        if not trainer.is_global_zero:
            return {}
        answers = join_answers(shares, [row.name for row in data.splits.test])
    metrics = metrics_on_test_split(answers, lexicon)
    text = answer_lines(answers, lexicon)
    write_text(Path(config.paths.run) / "test" / "answers.jsonl", text)
    for logger in loggers:
        if isinstance(logger, TrackedMLFlowLogger):
            # At the step of the weights, as `evaluate` does: MLflow shows the value of the highest step.
            logger.log_test_metrics(metrics, step)
        else:
            logger.log_metrics(metrics, step=trainer.global_step)
        logger.save()
    for tracked in mlflow_loggers(loggers):
        tracked.log_text(text, "test/answers.jsonl")
    return metrics


def metrics_on_test_split(answers: Answers, lexicon: Lexicon) -> dict[str, float]:
    """Return the metrics of answers to the test clips by log name.

    Returns:
        ``test/f1``, ``test/precision`` and ``test/recall`` (means over the five level-1 wheels, in [0, 1]) and
        ``test/answers/<statistic>``; where every target is a single label, also ``test/<set>/war``, ``uar`` and
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
