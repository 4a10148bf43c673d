"""How much the answers owe to each modality, at every validation of every stage that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from affectgpt_r1.distributed.collectives import all_gather_objects
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.metrics.functional.wheel_f1 import wheel_counts
from affectgpt_r1.training.completions import parse_rollout
from affectgpt_r1.training.masked_modality import maskable, without_modality
from affectgpt_r1.training.module import AffectModule
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.types import ClipBatch, EmotionSet, Modality

Triple = tuple[EmotionSet, EmotionSet, EmotionSet]
"""The full answer, the one without a modality, and the target."""


class ModalityFaithfulness(pl.Callback):
    """Log ``val/masked/<modality>/changed`` and ``val/masked/<modality>/f1_drop``.

    The first validation clips of every process are answered again without each modality, as they are with all: the
    fraction of answers with other clusters on any wheel, and the corpus F1 that is lost.

    Args:
        max_clips: Clips of each process; 0 logs nothing.
    """

    def __init__(self, max_clips: int = 32) -> None:
        self._max_clips = max_clips
        self._num_clips = 0
        self._answers: dict[Modality, list[Triple]] = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Answer a batch without each modality, until there are enough."""
        assert isinstance(pl_module, AffectModule)
        policy, completions = pl_module.policy, outputs["completions"]
        number = min(self._max_clips - self._num_clips, len(completions))
        if trainer.sanity_checking or number < 1:
            return
        self._num_clips += number
        clips = policy.with_features(select_clips(batch, range(number)))
        for modality in maskable(clips):
            rollout = policy.generate(without_modality(clips, modality), 1, pl_module.answer_sampling)
            masked = parse_rollout(
                rollout, clips.names, enable_thinking=policy.enable_thinking, kind=policy.template.kind
            )
            self._answers.setdefault(modality, []).extend(
                (full.labels, one.labels, target)
                for full, one, target in zip(completions[:number], masked, clips.labels, strict=True)
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what the clips of all processes show."""
        assert isinstance(pl_module, AffectModule)
        gathered = all_gather_objects(self._answers)
        self._answers, self._num_clips = {}, 0
        for modality in sorted({kind for answers in gathered for kind in answers}):
            triples = [triple for answers in gathered for triple in answers.get(modality, [])]
            for name, value in masked_metrics(triples, pl_module.val_score.lexicon).items():
                pl_module.log(f"val/masked/{modality}/{name}", value)


def masked_metrics(answers: Sequence[Triple], lexicon: Lexicon) -> dict[str, float]:
    """Return the fraction of answers that changed clusters on any wheel, and the corpus F1 that was lost."""
    full, masked, targets = (list(part) for part in zip(*answers, strict=True))
    both = wheel_counts(masked, full, lexicon)
    changed = (2 * both.hits != both.predicted + both.relevant).any(1)
    scores = []
    for answered in (full, masked):
        score = EmotionWheelScore(lexicon, sync_on_compute=False)  # every process has the answers of all
        score.update(answered, targets)
        scores.append(float(score.compute()["f1"]))
    return {"changed": float(changed.mean()), "f1_drop": scores[0] - scores[1]}
