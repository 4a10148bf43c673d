"""What validation found in this process, and in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from affectgpt_r1.distributed.collectives import all_gather_objects
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.metrics.functional.choice import choice_scores
from affectgpt_r1.metrics.functional.recognition import single_label_scores
from affectgpt_r1.policy.questions import CHOICES, LABEL_KINDS
from affectgpt_r1.training.base import Stage
from affectgpt_r1.training.completions import answer_statistics
from affectgpt_r1.training.hacking_probe import HackingProbe
from affectgpt_r1.training.log_values import as_floats, pooled
from affectgpt_r1.types import Annotations, Completion, EmotionSet, LogValue


@dataclass
class ValidationRecord:
    """Answers, targets and the stage's own logs of the validation clips so far.

    Shares of the clips may differ between processes, down to none, so that only :meth:`gathered` communicates.
    """

    completions: list[Completion] = field(default_factory=list)
    targets: list[EmotionSet] = field(default_factory=list)
    logs: dict[str, LogValue] = field(default_factory=dict)
    choices: list[tuple[str | None, str]] = field(default_factory=list)

    def add_logs(self, logs: Mapping[str, LogValue | Tensor], num_clips: int) -> None:
        """Add what the stage logs of a batch; plain values are means over ``num_clips`` clips."""
        weighted = {
            name: one if isinstance(one, LogValue) else LogValue("mean", one, float(num_clips))
            for name, one in logs.items()
        }
        self.logs = pooled([self.logs, as_floats(weighted)])

    def add_answers(self, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> None:
        """Add a batch's answers and what they should have been."""
        self.completions.extend(completions)
        self.targets.extend(targets)

    def add_choices(self, kind: str, completions: Sequence[Completion], annotations: Sequence[Annotations]) -> None:
        """Add what a batch's answers chose, and what they should have, where the label file says that."""
        for completion, facts in zip(completions, annotations or [{}] * len(completions), strict=True):
            if kind in facts:
                self.choices.append((completion.answer, str(facts[kind])))

    def gathered(self) -> ValidationRecord:
        """The record of all processes, the same in each; every process must call this."""
        shares = all_gather_objects(self)
        return ValidationRecord(
            [one for share in shares for one in share.completions],
            [one for share in shares for one in share.targets],
            pooled(share.logs for share in shares),
            [one for share in shares for one in share.choices],
        )

    def choice_metrics(self, kind: str) -> dict[str, float]:
        """Accuracy and weighted F1 of answers that choose among a few; nothing for any other kind of question."""
        answers, targets = [said for said, _ in self.choices], [target for _, target in self.choices]
        return choice_scores(answers, targets, CHOICES.get(kind, ()))

    def mean_logs(self) -> dict[str, float]:
        """What the stage logs of all clips together."""
        return {name: float(value) for name, value in self.logs.items()}

    def answer_metrics(self, lexicon: Lexicon, probe: HackingProbe | None) -> dict[str, float]:
        """Figures of the answers by log name: WAR and UAR of single labels, statistics, signs of reward hacking."""
        recalls = single_label_scores([completion.labels for completion in self.completions], self.targets)
        statistics = answer_statistics(self.completions, self.targets, lexicon)
        metrics: dict[str, LogValue | float] = {
            **recalls,
            **{f"answers/{name}": value for name, value in statistics.items()},
        }
        if probe is not None:
            signs: dict[str, LogValue | float] = {
                **probe.constant_answer_rewards(self.targets),
                **probe.part_correlations(self.completions, self.targets),
            }
            metrics |= {f"hacking/{name}": value for name, value in signs.items()}
        return {name: float(value) for name, value in metrics.items()}


def validation_names(
    stage: Stage, kind: str, targets: Sequence[EmotionSet], annotations: Sequence[Annotations], lexicon: Lexicon
) -> set[str]:
    """Return the log names, with ``val/``, that every validation of these clips will have.

    Signs of reward hacking are left out: they say nothing about which checkpoint is best, and some are missing from
    some validations.

    Args:
        stage: What trains.
        kind: The kind of the prompt's question.
        targets: Of the ``N`` validation clips.
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
        names |= {"f1", "precision", "recall", *record.answer_metrics(lexicon, None)}
    return {f"val/{name}" for name in names}
