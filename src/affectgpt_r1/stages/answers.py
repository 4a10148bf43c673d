"""Parsing sampled answers once, and what is counted about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.types import Completion, Rollout


def parse_rollout(rollout: Rollout, clips: Sequence[str], *, thinks: bool) -> list[Completion]:
    """The ``B * G`` completions of a rollout, clip by clip.

    Args:
        rollout: What the policy drew.
        clips: ``B`` clip names.
        thinks: Whether the prompt asks for reasoning.
    """
    lengths = rollout.completions.mask.sum(-1).flatten().int().tolist()
    truncated = rollout.truncated.flatten().tolist()
    drawn = [
        (text, clip, group)
        for group, (clip, texts) in enumerate(zip(clips, rollout.texts, strict=True))
        for text in texts
    ]
    return [
        dataclasses.replace(
            parse_completion(text, thinks=thinks, num_tokens=length, truncated=cut), clip=clip, group=group
        )
        for (text, clip, group), length, cut in zip(drawn, lengths, truncated, strict=True)
    ]


def answer_statistics(completions: Sequence[Completion], lexicon: Lexicon) -> Mapping[str, float]:
    """What a spraying or repeating policy cannot hide.

    Args:
        completions: At least one.
        lexicon: Decides which words map on a wheel.

    Returns:
        ``words_per_answer`` and ``distinct_words`` (means), ``repeated_words`` (mean words of an answer that had stood
        in it before), ``unmapped_share`` (of all words) and ``format_rate``.
    """
    answers = [[label.strip().lower() for label in completion.labels] for completion in completions]
    words = [word for answer in answers for word in answer]
    distinct = sum(len(set(answer)) for answer in answers)
    return {
        "words_per_answer": len(words) / len(answers),
        "distinct_words": distinct / len(answers),
        "repeated_words": (len(words) - distinct) / len(answers),
        "unmapped_share": sum(word not in lexicon for word in words) / max(1, len(words)),
        "format_rate": sum(completion.well_formed for completion in completions) / len(completions),
    }
