"""Two choices of a sweep against each other: the same clips resampled, and the same seeds paired."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.bootstrap import (
    Interval,
    bootstrap_interval,
    mean_difference_interval,
    seeds_and_clips_interval,
)
from affectgpt_r1.metrics.functional.wheel_f1 import WheelCounts, wheel_counts
from affectgpt_r1.report.queries import Answer, Sweep, Trial
from affectgpt_r1.report.statistics import PairedTest, paired_t_test

CLIPS_TEST = (
    "“Clips” resamples the test clips (paired bootstrap of the corpus F1, averaged over seeds) and asks whether these "
    "very policies would differ on other clips."
)
SEEDS_TEST = (
    "“Seeds” is the seed-paired t test and asks whether training again with other seeds would give the difference."
)
BOTH_TEST = "“Both” draws seeds and clips alike (hierarchical bootstrap); of so few seeds it is a little too narrow."
_SAME_SCORE = 1e-6


class Comparison(NamedTuple):
    """One choice minus another, in F1; None where the runs do not allow the test."""

    clips: Interval | None
    seeds: PairedTest | None
    both: Interval | None


def compare(sweep: Sweep, first: str, second: str) -> Comparison | None:
    """Compare ``first`` with ``second``; None unless both have a finished trial.

    A policy that was not trained, so that it has one trial and no curves, is compared with every seed of the other.
    """
    ours, theirs = sweep.of(first), sweep.of(second)
    if not ours or not theirs:
        return None
    pairs = list(_same_seeds(sweep, first, second))
    clips = both = None
    if len({_names(trial) for trial in (*ours, *theirs)}) == 1:
        clips = mean_difference_interval([counts(trial) for trial in ours], [counts(trial) for trial in theirs])
        if len(pairs) > 1:
            both = seeds_and_clips_interval([counts(pair[0]) for pair in pairs], [counts(pair[1]) for pair in pairs])
    differences = [pair[0].metrics["test/f1"] - pair[1].metrics["test/f1"] for pair in pairs]
    return Comparison(clips, paired_t_test(differences), both)


def _same_seeds(sweep: Sweep, first: str, second: str) -> Iterator[tuple[Trial, Trial]]:
    by_seed = [{trial.seed: trial for trial in sweep.trials if trial.choice == choice} for choice in (first, second)]
    single = [
        trials[0] if len(trials := sweep.of(choice)) == 1 and not trials[0].curves else None
        for choice in (first, second)
    ]
    if all(single):
        return
    for seed in sorted({*by_seed[0], *by_seed[1]}):
        ours, theirs = (trials.get(seed, fixed) for trials, fixed in zip(by_seed, single, strict=True))
        if ours is not None and theirs is not None:
            yield ours, theirs


def disagreement(trial: Trial) -> str | None:
    """Say what is wrong with a trial whose logged F1 is not that of its logged answers; None if they agree."""
    if not bool((counts(trial).relevant > 0).any()):
        return "none of its answers counts: no target maps onto a wheel"
    score = bootstrap_interval(counts(trial), resamples=1).estimate
    if abs(score - trial.metrics["test/f1"]) <= _SAME_SCORE:
        return None
    return f"it logged F1 {trial.metrics['test/f1']:.4f}, its answers have {score:.4f} by the {trial.lexicon} lexicon"


def counts(trial: Trial) -> WheelCounts:
    """Count the clusters of a trial's answers, in the order of the clips' names."""
    return _counts(tuple((answer.openset, answer.target) for answer in _sorted(trial)), trial.lexicon)


@lru_cache(maxsize=256)
def _counts(pairs: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], lexicon: str) -> WheelCounts:
    return wheel_counts([openset for openset, _ in pairs], [target for _, target in pairs], load_lexicon(lexicon))


def _names(trial: Trial) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((answer.name, answer.target) for answer in _sorted(trial))


def _sorted(trial: Trial) -> list[Answer]:
    return sorted(trial.answers, key=lambda answer: answer.name)
