"""Answer clips, score systems with intervals, and find what each modality contributes to a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.io.clean_text import json_line
from affectgpt_r1.metrics.bootstrap import STATISTICS, bootstrap_interval, paired_difference_interval
from affectgpt_r1.metrics.functional.recognition import single_label_scores
from affectgpt_r1.metrics.functional.wheel_f1 import WheelCounts, _compute, _update, batch_mean_set_f1, wheel_counts
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training.completions import answer_statistics, parse_rollout
from affectgpt_r1.training.rollout_buffer import without_long_prompts
from affectgpt_r1.types import ClipBatch, Completion, EmotionSet, Modality, Sampling, UnreadableClip


class Answers(NamedTuple):
    """Greedy answers to the clips of a split, in order."""

    names: list[str]
    targets: list[EmotionSet]
    completions: list[Completion]
    unreadable: list[UnreadableClip]

    @property
    def labels(self) -> list[EmotionSet]:
        """The answered emotion words."""
        return [completion.labels for completion in self.completions]


def decode_answers(
    policy: MultimodalPolicy, batches: Iterable[ClipBatch], sampling: Sampling, *, without: Modality | None = None
) -> Answers:
    """Answer every clip; ``without`` leaves one modality out of every prompt."""
    answers = Answers([], [], [], [])
    for read in batches:
        batch = without_long_prompts(policy, read)
        answers.unreadable.extend(batch.unreadable)
        if len(batch) == 0:
            continue
        kept = tuple(tuple(kind for kind in kinds if kind != without) for kinds in batch.modalities)
        rollout = policy.generate(dataclasses.replace(batch, modalities=kept), 1, sampling)
        answers.names.extend(batch.names)
        answers.targets.extend(batch.labels)
        kind = policy.template.kind
        answers.completions.extend(
            parse_rollout(rollout, batch.names, enable_thinking=policy.enable_thinking, kind=kind)
        )
    return answers


def join_answers(shares: Sequence[Answers], names: Sequence[str]) -> Answers:
    """Put the shares of several processes together, in the order of the split's ``names``."""
    place = {name: number for number, name in enumerate(names)}
    unreadable = sorted((clip for share in shares for clip in share.unreadable), key=lambda clip: place[clip.name])
    rows = sorted(
        (row for share in shares for row in zip(share.names, share.targets, share.completions, strict=True)),
        key=lambda row: place[row[0]],
    )
    return Answers([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], unreadable)


def common_clips(systems: Mapping[str, dict[str, Answers]]) -> list[UnreadableClip]:
    """Keep the answers to clips that every system could read, in place.

    Args:
        systems: Answers to the same split by system and modality left out.

    Returns:
        The clips that some system could not read, each once.
    """
    # Systems that read different media fail on different clips; paired differences need the same ones.
    every = [answers for own in systems.values() for answers in own.values()]
    unreadable = {clip.name: clip for answers in every for clip in answers.unreadable}
    for own in systems.values():
        for kind, answers in own.items():
            rows = [row for row, name in enumerate(answers.names) if name not in unreadable]
            own[kind] = Answers(
                [answers.names[row] for row in rows],
                [answers.targets[row] for row in rows],
                [answers.completions[row] for row in rows],
                list(unreadable.values()),
            )
    return list(unreadable.values())


def answer_lines(answers: Answers, lexicon: Lexicon, without: Mapping[Modality, Answers] | None = None) -> str:
    """Return JSON lines: ``name``, ``target``, ``openset``, ``completion``, ``well_formed`` and ``f1``.

    ``f1`` is the clip's mean set F1 over the wheels, None where no target word is on a wheel. It is the accuracy
    reward, and ``well_formed`` the format reward. With ``without``, answers to the same clips with one modality left
    out, a line also has their words by modality.
    """
    scores = batch_mean_set_f1(answers.labels, answers.targets, lexicon)
    rows = zip(answers.names, answers.targets, answers.completions, scores, strict=True)
    lines = [
        {
            "name": name,
            "target": list(target),
            "openset": list(completion.labels),
            "completion": completion.text,
            "well_formed": completion.well_formed,
            "f1": score,
            **({"without": {kind: list(left.labels[row]) for kind, left in without.items()}} if without else {}),
        }
        for row, (name, target, completion, score) in enumerate(rows)
    ]
    return "".join(map(json_line, lines))


def score_labels(labels: Sequence[EmotionSet], targets: Sequence[EmotionSet], lexicon: Lexicon) -> dict[str, Any]:
    """Return ``mean_level1``, its 95 % bootstrap ``interval`` over clips, and the scores of each of the ``wheels``."""
    counts = wheel_counts(labels, targets, lexicon)
    intervals = {score: bootstrap_interval(counts, score) for score in STATISTICS}
    corpus = _compute(_update(counts))._asdict()
    return {
        "mean_level1": {score: interval.estimate for score, interval in intervals.items()},
        "interval": {score: [interval.low, interval.high] for score, interval in intervals.items()},
        "wheels": {
            f"wheel{wheel + 1}": {score: float(corpus[score][wheel]) for score in STATISTICS}
            for wheel in range(counts.hits.shape[1])
        },
    }


def system_summary(answers: Answers, without: Mapping[Modality, Answers], lexicon: Lexicon) -> dict[str, Any]:
    """Return everything that the evaluation says of one system.

    Args:
        answers: To the clips with all their modalities.
        without: To the same clips with one modality left out.
        lexicon: The words' clusters.
    """
    full = wheel_counts(answers.labels, answers.targets, lexicon)
    drops = {}
    for modality, left_out in without.items():
        counts = wheel_counts(left_out.labels, left_out.targets, lexicon)
        drop = paired_difference_interval(full, counts)
        f1 = bootstrap_interval(counts, resamples=1).estimate
        drops[modality] = {"f1": f1, "drop": drop.estimate, "interval": [drop.low, drop.high]}
    return {
        **score_labels(answers.labels, answers.targets, lexicon),
        **answer_statistics(answers.completions, answers.targets, lexicon),
        **single_label_scores(answers.labels, answers.targets),
        "without": drops,
    }


def differences(systems: Mapping[str, Answers], pairs: Iterable[tuple[str, str]], lexicon: Lexicon) -> dict[str, Any]:
    """Return paired differences of F1 on the same clips, with 95 % intervals, for pairs of which both are compared."""
    counts: dict[str, WheelCounts] = {
        name: wheel_counts(answers.labels, answers.targets, lexicon) for name, answers in systems.items()
    }
    rows = {}
    for first, second in pairs:
        if first in counts and second in counts:
            interval = paired_difference_interval(counts[first], counts[second])
            rows[f"{first}_minus_{second}"] = {"f1": interval.estimate, "interval": [interval.low, interval.high]}
    return rows
