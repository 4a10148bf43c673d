"""Parsing sampled answers once, and what is counted about them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.parsing import parse_completion, parse_labels
from affectgpt_r1.emotion.wheels import NUM_WHEELS
from affectgpt_r1.metrics.functional.wheel_f1 import wheel_counts
from affectgpt_r1.policy.questions import LABEL_KINDS, stated
from affectgpt_r1.types import Completion, EmotionSet, Rollout


def parse_rollout(rollout: Rollout, clips: Sequence[str], *, enable_thinking: bool, kind: str = "") -> list[Completion]:
    """The ``B * G`` completions of a rollout, clip by clip.

    Args:
        rollout: What the policy drew.
        clips: ``B`` clip names.
        enable_thinking: Whether the prompt asks for reasoning.
        kind: The published question that was asked, answered by its sentence; ``""`` is answered in tags.
    """
    lengths = rollout.completions.mask.sum(-1).flatten().int().tolist()
    truncated = rollout.truncated.flatten().tolist()
    drawn = [
        (text, clip, group)
        for group, (clip, texts) in enumerate(zip(clips, rollout.texts, strict=True))
        for text in texts
    ]
    parsed = [
        dataclasses.replace(
            parse_completion(text, enable_thinking=enable_thinking, num_tokens=length, truncated=cut),
            clip=clip,
            group=group,
        )
        for (text, clip, group), length, cut in zip(drawn, lengths, truncated, strict=True)
    ]
    return [_read_sentence(completion, kind) for completion in parsed] if kind else parsed


def _read_sentence(completion: Completion, kind: str) -> Completion:
    said = stated(kind, completion.text)
    labels = parse_labels(said) if kind in LABEL_KINDS else ()
    return dataclasses.replace(completion, answer=said, labels=labels, well_formed=said is not None)


def answer_statistics(
    completions: Sequence[Completion], targets: Sequence[EmotionSet], lexicon: Lexicon
) -> Mapping[str, float]:
    """What a spraying, repeating or collapsing policy cannot hide.

    Args:
        completions: At least one.
        targets: The target of each.
        lexicon: Decides which words map on a wheel.

    Returns:
        ``words_per_answer``, ``distinct_words`` and ``target_words`` (means, the last distinct too),
        ``distinct_per_target`` (their ratio), ``repeated_words`` (mean words of an answer that had stood in it
        before), ``unmapped_rate`` (of all words), ``clusters_named_fraction`` (of the level-1 clusters of the five
        wheels, mean over answers), ``answer_entropy`` (Shannon entropy, in nats, of the sets of words that were
        answered: 0 if every answer is the same set) and ``format_rate``.
    """
    answers = [tuple(label.strip().lower() for label in completion.labels) for completion in completions]
    words = list(chain.from_iterable(answers))
    answered = [frozenset(answer) for answer in answers]
    distinct = sum(map(len, answered))
    target_words = sum(len({label.strip().lower() for label in target}) for target in targets)
    named = wheel_counts(answers, answers, lexicon).predicted.sum().item()
    num_clusters = sum(len(lexicon.clusters(wheel)) for wheel in range(1, NUM_WHEELS + 1))
    return {
        "words_per_answer": len(words) / len(answers),
        "distinct_words": distinct / len(answers),
        "target_words": target_words / len(answers),
        "distinct_per_target": distinct / max(1, target_words),
        "repeated_words": (len(words) - distinct) / len(answers),
        "unmapped_rate": sum(word not in lexicon for word in words) / max(1, len(words)),
        "clusters_named_fraction": named / (num_clusters * len(answers)),
        "answer_entropy": _entropy(answered),
        "format_rate": sum(completion.well_formed for completion in completions) / len(completions),
    }


def _entropy(outcomes: Sequence[Hashable]) -> float:
    shares = [count / len(outcomes) for count in Counter(outcomes).values()]
    return sum(share * math.log(1 / share) for share in shares)
