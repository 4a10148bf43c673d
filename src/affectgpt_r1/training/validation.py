"""The validation clips' answers, losses and metrics, of this process and of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather_objects
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.metrics.functional.choice import choice_scores
from affectgpt_r1.metrics.functional.recognition import single_label_scores
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.questions import CHOICES, LABEL_KINDS
from affectgpt_r1.training.base import Stage
from affectgpt_r1.training.completions import answer_statistics, parse_rollout
from affectgpt_r1.training.log_values import as_floats, pooled
from affectgpt_r1.types import Annotations, ClipBatch, Completion, EmotionSet, LogValue, Sampling


@dataclass
class ValidationRecord:
    """Answers, targets and the stage's own logs of the validation clips so far.

    Processes may have unequally many clips, down to none, so only :meth:`gathered` communicates.
    """

    completions: list[Completion] = field(default_factory=list)
    targets: list[EmotionSet] = field(default_factory=list)
    logs: dict[str, LogValue] = field(default_factory=dict)
    choices: list[tuple[str | None, str]] = field(default_factory=list)  # (answer, target) where the label file has one

    def add(self, policy: MultimodalPolicy, stage: Stage, batch: ClipBatch, sampling: Sampling) -> Sequence[Completion]:
        """Decode a batch's answers, and add them and what the stage logs of it.

        Returns:
            The answers that name emotions; none where the question asks for a choice, a description or a number.
        """
        kind = policy.template.kind
        if len(batch) == 0:
            return []
        batch = policy.with_features(batch)
        self.add_logs(stage.validation_step(policy, batch), len(batch))
        if not stage.answers or kind not in ("", *LABEL_KINDS, *CHOICES):  # such answers are judged by the loss alone
            return []
        rollout = policy.generate(batch, 1, sampling)
        completions = parse_rollout(rollout, batch.names, enable_thinking=policy.enable_thinking, kind=kind)
        if kind in CHOICES:
            for completion, facts in zip(completions, batch.annotations or [{}] * len(batch), strict=True):
                if kind in facts:
                    self.choices.append((completion.answer, str(facts[kind])))
            return []
        self.completions.extend(completions)
        self.targets.extend(batch.labels)
        return completions

    def add_logs(self, logs: Mapping[str, LogValue | Tensor], num_clips: int) -> None:
        """Add what the stage logs of a batch; plain values are means over ``num_clips`` clips."""
        weighted = {
            name: value if isinstance(value, LogValue) else LogValue("mean", value, float(num_clips))
            for name, value in logs.items()
        }
        self.logs = pooled([self.logs, as_floats(weighted)])

    def gathered(self) -> ValidationRecord:
        """Return the record of all processes, the same in each; every process must call this."""
        records = all_gather_objects(self)
        return ValidationRecord(
            [completion for record in records for completion in record.completions],
            [target for record in records for target in record.targets],
            pooled(record.logs for record in records),
            [choice for record in records for choice in record.choices],
        )

    def metrics(self, kind: str, score: EmotionWheelScore) -> dict[str, float]:
        """Return all metrics of the clips, by log name; ``score`` is the wheel score of the same answers."""
        metrics = {name: float(value) for name, value in self.logs.items()} | self.choice_metrics(kind)
        if self.completions:
            scores = score.compute()
            metrics |= {name: float(scores[name]) for name in ("f1", "precision", "recall")}
            metrics |= self.answer_metrics(score.lexicon)
        return metrics

    def choice_metrics(self, kind: str) -> dict[str, float]:
        """Return accuracy and weighted F1 of answers that choose among a few; nothing for any other question."""
        answers, targets = [answer for answer, _ in self.choices], [target for _, target in self.choices]
        return choice_scores(answers, targets, CHOICES.get(kind, ()))

    def answer_metrics(self, lexicon: Lexicon) -> dict[str, float]:
        """Return WAR and UAR of single labels, and the answers' statistics."""
        recalls = single_label_scores([completion.labels for completion in self.completions], self.targets)
        statistics = answer_statistics(self.completions, self.targets, lexicon)
        return {
            **{name: float(value) for name, value in recalls.items()},
            **{f"answers/{name}": float(value) for name, value in statistics.items()},
        }


def validation_names(
    stage: Stage, kind: str, targets: Sequence[EmotionSet], annotations: Sequence[Annotations], lexicon: Lexicon
) -> set[str]:
    """Return the log names, with ``val/``, that every validation of these clips will have.

    Signs of reward hacking are left out: they say nothing about which checkpoint is best, and some are missing from
    some validations.

    Args:
        stage: What trains.
        kind: The kind of the prompt's question.
        targets: Of ``N`` validation clips.
        annotations: Of the same clips.
        lexicon: The words' clusters.
    """
    names = set(stage.validation_logs)
    record = ValidationRecord()
    if stage.answers and kind in CHOICES:
        record.choices = [(None, str(facts[kind])) for facts in annotations if kind in facts]
        names |= set(record.choice_metrics(kind))
    elif stage.answers and kind in ("", *LABEL_KINDS) and targets:
        record.targets = list(targets)
        record.completions = [Completion("", None, None, labels, True) for labels in targets]
        names |= {"f1", "precision", "recall", *record.answer_metrics(lexicon)}
    return {f"val/{name}" for name in names}
