"""Parse sampled answers once, count what they say, and log it under TRL's names; all of this process alone."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.parsing import parse_completion, parse_labels
from affectgpt_r1.metrics.functional.wheel_f1 import wheel_counts
from affectgpt_r1.policy.questions import LABEL_KINDS, stated
from affectgpt_r1.rewards.weighting import RewardScores
from affectgpt_r1.training.advantages import zero_std_groups
from affectgpt_r1.training.log_values import as_floats, extreme, mean_of, std_of
from affectgpt_r1.training.losses import token_mean
from affectgpt_r1.types import ClipBatch, Completion, CompletionRecord, EmotionSet, LogValue, Rollout


def parse_rollout(
    rollout: Rollout, clips: Sequence[str], *, enable_thinking: bool, kind: str = "", subtitles: Sequence[str] = ()
) -> list[Completion]:
    """Return the ``B * G`` completions of a rollout, clip by clip.

    Args:
        rollout: ``G`` texts for each of ``B`` clips.
        clips: ``B`` clip names.
        enable_thinking: Whether the prompt asks for reasoning.
        kind: The published question that was asked, answered by its sentence; ``""`` is answered in tags.
        subtitles: Of the clips, for rewards that read them.
    """
    said = subtitles or [""] * len(clips)
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
            subtitle=said[group],
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
    num_clusters = sum(map(len, lexicon.cluster_names[0]))
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


def reward_logs(scores: RewardScores, num_generations: int) -> dict[str, LogValue]:
    """Return TRL's reward metrics of ``B * G`` completions."""
    total = scores.total
    logs = {
        "reward": mean_of(total),
        "reward_std": std_of(total),
        # Of groups, whatever scales the advantages; TRL's is of the batch where the batch does.
        "frac_reward_zero_std": mean_of(zero_std_groups(total.view(-1, num_generations)).float()),
    }
    for name, part in scores.rewards_per_func.items():
        logs[f"rewards/{name}/mean"] = mean_of(part)
        logs[f"rewards/{name}/std"] = std_of(part)
    return logs


def completion_logs(rollout: Rollout) -> dict[str, LogValue]:
    """Return TRL's completion metrics: lengths of all, and of those that a stop token ended (0 if there is none)."""
    lengths, truncated = rollout.completions.mask.sum(-1).flatten().cpu(), rollout.truncated.flatten().cpu()
    logs = {"completions/clipped_ratio": mean_of(truncated.float())}
    for kind, chosen in (("length", lengths), ("terminated_length", lengths[~truncated])):
        logs[f"completions/mean_{kind}"] = mean_of(chosen, empty=0.0)
        logs[f"completions/min_{kind}"] = extreme("min", chosen)
        logs[f"completions/max_{kind}"] = extreme("max", chosen)
    return as_floats(logs)


def answer_logs(statistics: Mapping[str, float], num_completions: int) -> dict[str, LogValue]:
    """Return the answers' statistics, each weighted by what it is a mean over.

    Args:
        statistics: See :func:`answer_statistics`.
        num_completions: Completions that they describe.
    """
    # answer_entropy of several batches is the mean of theirs: it measures what is sampled at once.
    weights = {
        "unmapped_rate": statistics["words_per_answer"] * num_completions,
        "distinct_per_target": statistics["target_words"] * num_completions,
    }
    return {
        f"answers/{name}": LogValue("mean", value, weights.get(name, float(num_completions)))
        for name, value in statistics.items()
    }


def sampling_logs(per_token_logps: Tensor, sampling_per_token_logps: Tensor, mask: Tensor) -> dict[str, LogValue]:
    """Return how update-time and sampling-time log-probs differ: by numerics, and by what later steps have learned."""
    difference = (per_token_logps.detach() - sampling_per_token_logps).abs() * mask
    return {
        "sampling/sampling_logp_difference/mean": token_mean(difference, mask),
        "sampling/sampling_logp_difference/max": extreme("max", difference),
    }


def completion_records(
    prompts: Sequence[str],
    batch: ClipBatch,
    completions: Sequence[Completion],
    scores: RewardScores,
    advantages: Tensor,
) -> list[CompletionRecord]:
    """Return a row of the completions table for each completion, clip by clip.

    Args:
        prompts: ``B``.
        batch: ``B`` clips.
        completions: ``B * G``.
        scores: Of ``B * G`` completions.
        advantages: ``(B, G)``.
    """
    num_generations = len(completions) // len(batch)
    parts = {name: part.tolist() for name, part in scores.rewards_per_func.items()}
    totals, advantage_values = scores.total.tolist(), advantages.flatten().tolist()
    return [
        CompletionRecord(
            name=batch.names[row // num_generations],
            prompt=prompts[row // num_generations],
            target=", ".join(batch.labels[row // num_generations]),
            completion=completion.text,
            rewards={name: None if math.isnan(values[row]) else values[row] for name, values in parts.items()},
            reward=totals[row],
            advantage=advantage_values[row],
        )
        for row, completion in enumerate(completions)
    ]


def tokens_per_second(rollout: Rollout, seconds: float) -> LogValue:
    """Return completion tokens of a rollout over the seconds that sampling took, replaced groups included."""
    seconds = max(seconds, 1e-9)
    return LogValue("mean", float(torch.sum(rollout.completions.mask)) / seconds, seconds)
