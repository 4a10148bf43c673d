"""Parse sampled answers once, and count what they say."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.parsing import parse_completion, parse_labels
from affectgpt_r1.emotion.wheels import NUM_WHEELS
from affectgpt_r1.metrics.functional.wheel_f1 import wheel_counts
from affectgpt_r1.policy.questions import LABEL_KINDS, stated
from affectgpt_r1.types import Completion, EmotionSet, Rollout


def parse_rollout(rollout: Rollout, clips: Sequence[str], *, enable_thinking: bool, kind: str = "") -> list[Completion]:
    """Return the ``B * G`` completions of a rollout, clip by clip.

    Args:
        rollout: ``G`` texts for each of ``B`` clips.
        clips: ``B`` clip names.
        enable_thinking: Whether the prompt asks for reasoning.
        kind: The published question that was asked, answered by its sentence; ``""`` is answered in tags.
    """
    lengths = rollout.completions.mask.sum(-1).flatten().int().tolist()
    truncated = rollout.truncated.flatten().tolist()
    texts = [
        (text, clip, group)
        for group, (clip, texts) in enumerate(zip(clips, rollout.texts, strict=True))
        for text in texts
    ]
    completions = [
        dataclasses.replace(
            parse_completion(text, enable_thinking=enable_thinking, num_tokens=length, truncated=is_cut),
            clip=clip,
            group=group,
        )
        for (text, clip, group), length, is_cut in zip(texts, lengths, truncated, strict=True)
    ]
    return [_read_sentence(completion, kind) for completion in completions] if kind else completions


def _read_sentence(completion: Completion, kind: str) -> Completion:
    said = stated(kind, completion.text)
    labels = parse_labels(said) if kind in LABEL_KINDS else ()
    return dataclasses.replace(completion, answer=said, labels=labels, well_formed=said is not None)


def answer_statistics(
    completions: Sequence[Completion], targets: Sequence[EmotionSet], lexicon: Lexicon
) -> Mapping[str, float]:
    """Return statistics that show a policy which lists many words, repeats itself or always answers the same.

    Args:
        completions: At least one.
        targets: The target of each.
        lexicon: Decides which words map on a wheel.
    """
    answers = [tuple(label.strip().lower() for label in completion.labels) for completion in completions]
    words = list(chain.from_iterable(answers))
    answered = [frozenset(answer) for answer in answers]
    distinct = sum(map(len, answered))
    target_words = sum(len({label.strip().lower() for label in target}) for target in targets)
    named = wheel_counts(answers, answers, lexicon).predicted.sum().item()
    num_clusters = sum(len(lexicon.clusters(wheel)) for wheel in range(1, NUM_WHEELS + 1))
    frequencies = [count / len(answered) for count in Counter(answered).values()]
    return {
        "words_per_answer": len(words) / len(answers),
        "distinct_words": distinct / len(answers),
        "target_words": target_words / len(answers),  # distinct, too
        "distinct_per_target": distinct / max(1, target_words),
        "repeated_words": (len(words) - distinct) / len(answers),  # words that the same answer has named before
        "unmapped_rate": sum(word not in lexicon for word in words) / max(1, len(words)),  # of all words
        "clusters_named_fraction": named / (num_clusters * len(answers)),  # of the level-1 clusters of five wheels
        # Shannon's, in nats, of the sets of words: 0 if every answer is the same set.
        "answer_entropy": sum(frequency * math.log(1 / frequency) for frequency in frequencies),
        "format_rate": sum(completion.well_formed for completion in completions) / len(completions),
    }
