import random

import numpy as np
import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.bootstrap import (
    Interval,
    mean_difference_interval,
    paired_difference_interval,
    seeds_and_clips_interval,
)
from affectgpt_r1.metrics.functional.wheel_f1 import score_table, wheel_counts
from affectgpt_r1.report import directions
from affectgpt_r1.report.directions import judge_directions
from affectgpt_r1.report.paired_comparison import Comparison, compare, disagreement
from affectgpt_r1.report.queries import Answer, Sweep, Trial
from affectgpt_r1.report.statistics import PairedTest

LEXICON = load_lexicon("bundled")
WORDS = ("happy", "sad", "angry", "afraid", "surprised", "disgusted")
TARGETS = [tuple(random.Random(i).sample(WORDS, 2)) for i in range(60)]


def f1(predictions, targets):
    return score_table(predictions, targets, LEXICON)["mean_level1"]["f1"]


def make_trial(choice, seed, skill, *, words=2.0, run_id=None, names=None, shift=0.0):
    rng = random.Random(f"{seed}")
    predictions = [tuple(word if rng.random() < skill else rng.choice(WORDS) for word in target) for target in TARGETS]
    names = names or [f"clip{i}" for i in range(len(TARGETS))]
    answers = [
        Answer(name, tuple(target), prediction, "", None)
        for name, target, prediction in zip(names, TARGETS, predictions, strict=True)
    ]
    random.Random(seed).shuffle(answers)  # clips are paired by name, not by place
    metrics = {
        "test/f1": f1(predictions, TARGETS) + shift,
        "test/answers/distinct_words": words,
        "test/answers/target_words": 2.0,
    }
    return Trial(choice, seed, run_id or f"{choice}{seed}", metrics, tuple(answers))


def make_sweep(name, trials, baseline="none"):
    return Sweep(name, baseline, True, tuple(trials), (), ())


def seeds_of(choice, skill, **more):
    return [make_trial(choice, seed, skill, **more) for seed in (1, 2, 3)]


def test_mean_difference_equals_resampling_clip_by_clip():
    ours, theirs = [[trial.answers for trial in seeds_of(c, s)] for c, s in (("a", 0.9), ("b", 0.5))]
    ours, theirs = ([sorted(answers, key=lambda a: a.name) for answers in trials] for trials in (ours, theirs))
    counts = [
        [wheel_counts([a.openset for a in answers], [a.target for a in answers], LEXICON) for answers in trials]
        for trials in (ours, theirs[:2])
    ]
    interval = mean_difference_interval(*counts, resamples=30, seed=5)
    draws = []
    for rows in np.random.default_rng(5).integers(60, size=(30, 60)):
        means = [
            np.mean([f1([answers[i].openset for i in rows], [answers[i].target for i in rows]) for answers in trials])
            for trials in (ours, theirs[:2])
        ]
        draws.append(means[0] - means[1])
    assert (interval.low, interval.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-12)
    single = mean_difference_interval(counts[0][:1], counts[1][:1], resamples=30)
    assert single == paired_difference_interval(counts[0][0], counts[1][0], resamples=30)
    with pytest.raises(ValueError, match="at least one training"):
        mean_difference_interval(counts[0], [])


def test_seeds_and_clips_equal_drawing_both_one_by_one():
    ours, theirs = [[trial.answers for trial in seeds_of(c, s)] for c, s in (("a", 0.9), ("b", 0.5))]
    ours, theirs = ([sorted(answers, key=lambda a: a.name) for answers in trials] for trials in (ours, theirs))
    counts = [
        [wheel_counts([a.openset for a in answers], [a.target for a in answers], LEXICON) for answers in trials]
        for trials in (ours, theirs)
    ]
    interval = seeds_and_clips_interval(*counts, resamples=30, seed=5)
    clips = np.random.default_rng(5).integers(60, size=(30, 60))
    seeds = np.random.default_rng([5, 1]).integers(3, size=(3, 31))[:, 1:].T
    draws = []
    for rows, drawn in zip(clips, seeds, strict=True):
        parts = [
            f1([trials[s][i].openset for i in rows], [trials[s][i].target for i in rows])
            for trials in (ours, theirs)
            for s in drawn
        ]
        draws.append(np.mean(parts[:3]) - np.mean(parts[3:]))
    assert (interval.low, interval.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-12)
    assert interval.estimate == pytest.approx(mean_difference_interval(*counts, resamples=1).estimate, abs=1e-12)
    same = seeds_and_clips_interval([counts[0][0]] * 2, [counts[1][0]] * 2, resamples=30)
    assert same == pytest.approx(paired_difference_interval(counts[0][0], counts[1][0], resamples=30), abs=1e-12)
    with pytest.raises(ValueError, match="3 trainings and 1"):
        seeds_and_clips_interval(counts[0], counts[1][:1])


def test_seeds_are_paired_and_a_single_policy_is_compared_with_each():
    start = make_trial("none", 1, 0.3)
    sweep = make_sweep("reward", [start, *seeds_of("dual", 0.9)])
    clips, seeds, both = compare(sweep, "dual", "none")
    scores = [trial.metrics["test/f1"] for trial in sweep.of("dual")]
    assert seeds.n == 3
    assert seeds.difference == pytest.approx(np.mean(scores) - start.metrics["test/f1"], abs=1e-12)
    assert clips.estimate == pytest.approx(seeds.difference, abs=1e-12)
    assert both.estimate == pytest.approx(seeds.difference, abs=1e-12)
    repeated = make_sweep("reward", [make_trial("none", s, 0.3, run_id="x") for s in (1, 2, 3)])
    assert len(repeated.of("none")) == 1


def test_seeds_that_only_one_choice_has_are_left_out():
    trials = [*seeds_of("ratio", 0.9), *seeds_of("none", 0.5)[1:]]
    comparison = compare(make_sweep("penalty", trials), "ratio", "none")
    assert comparison.seeds.n == 2
    assert compare(make_sweep("penalty", trials), "ratio", "absent") is None


def test_policies_tested_on_other_clips_are_not_compared_by_clip():
    renamed = [f"other{i}" for i in range(len(TARGETS))]
    trials = [*seeds_of("ratio", 0.9), *seeds_of("none", 0.5, names=renamed)]
    comparison = compare(make_sweep("penalty", trials), "ratio", "none")
    assert comparison.clips is None
    assert comparison.both is None
    assert comparison.seeds.n == 3


def test_answers_that_belie_the_logged_score_are_told():
    assert disagreement(make_trial("none", 1, 0.5)) is None
    assert "by the bundled lexicon" in disagreement(make_trial("none", 1, 0.5, shift=0.01))


def verdicts(**trials):
    sweeps = {name: make_sweep(name, trials.get(name, ())) for name in ("reward", "reasoning", "penalty")}
    return {row["direction"]: row["verdict"] for row in judge_directions(sweeps)}


def test_verdicts_follow_the_stated_rules():
    reward = [*seeds_of("accuracy_format", 0.95), *seeds_of("accuracy", 0.4), *seeds_of("format", 0.95),
              *seeds_of("all", 0.99)]  # fmt: skip
    penalty = [
        *[make_trial("none", s, 0.7, words=4 + s / 10) for s in (1, 2, 3)],
        *[make_trial("inverse_gap", s, 0.7, words=2.1 + s / 100) for s in (1, 2, 3)],
        *[make_trial("ratio", s, 0.1, words=3 + s / 100) for s in (1, 2, 3)],
        *[make_trial("log_ratio", s, 0.7, words=2.2 + s / 5) for s in (1, 2, 3)],
    ]
    judged = verdicts(reward=reward, penalty=penalty, reasoning=[*seeds_of("think", 0.95), *seeds_of("no_think", 0.3)])
    assert judged == {
        "accuracy + format above accuracy alone": "reproduced",
        "accuracy + format above format alone": "undecided",
        "all five below accuracy + format": "not reproduced",
        "no-think at or above think": "not reproduced",
        "without a penalty, words grow past the target’s": "reproduced",
        "P1: words within 0.5 of the target’s": "reproduced",
        "P1: no loss of F1 against no penalty": "reproduced",
        "P2: words within 0.5 of the target’s": "not reproduced",
        "P2: no loss of F1 against no penalty": "not reproduced",
        "P3: words within 0.5 of the target’s": "undecided",
        "P3: no loss of F1 against no penalty": "reproduced",
    }


def test_a_penalty_brings_nothing_back_where_nothing_grew():
    judged = verdicts(penalty=[*seeds_of("none", 0.7, words=2.3), *seeds_of("ratio", 0.7, words=2.1)])
    assert judged["without a penalty, words grow past the target’s"] == "reproduced"
    assert judged["P2: words within 0.5 of the target’s"] == "reproduced"
    judged = verdicts(penalty=[*seeds_of("none", 0.7, words=2.1), *seeds_of("ratio", 0.7, words=2.1)])
    assert judged["P2: words within 0.5 of the target’s"] == "undecided"  # near the target, but as without the penalty
    judged = verdicts(penalty=[*seeds_of("none", 0.7, words=2.0), *seeds_of("ratio", 0.7, words=2.1)])
    assert judged["without a penalty, words grow past the target’s"] == "not reproduced"
    assert judged["P2: words within 0.5 of the target’s"] == "undecided"


def test_equal_policies_are_at_or_above_but_not_above():
    judged = verdicts(
        reward=[*seeds_of("accuracy_format", 0.8), *seeds_of("accuracy", 0.8)],
        reasoning=[*seeds_of("no_think", 0.8), *seeds_of("think", 0.8)],
    )
    assert judged["no-think at or above think"] == "reproduced"
    assert judged["accuracy + format above accuracy alone"] == "undecided"


def test_what_was_not_run_has_no_verdict_and_one_seed_decides_nothing():
    assert set(verdicts().values()) == {"not run"}
    one_seed = [make_trial("none", 1, 0.5, words=9.0), make_trial("ratio", 1, 0.1)]
    judged = verdicts(penalty=one_seed)
    assert judged["without a penalty, words grow past the target’s"] == "undecided"
    assert judged["P2: no loss of F1 against no penalty"] == "undecided"
    assert judged["P1: no loss of F1 against no penalty"] == "not run"


def no_loss(clips, seeds, monkeypatch):
    """The verdict on P2 where the paired tests have these intervals, in points."""
    interval = clips and Interval(sum(clips) / 200, clips[0] / 100, clips[1] / 100)
    paired = seeds and PairedTest(sum(seeds) / 200, seeds[0] / 100, seeds[1] / 100, 0.05, 3)
    monkeypatch.setattr(
        directions,
        "compare",
        lambda sweep, first, second: Comparison(interval, paired, None) if sweep.of(first) else None,
    )
    trials = [*seeds_of("none", 0.7), *seeds_of("ratio", 0.7)]
    return verdicts(penalty=trials)["P2: no loss of F1 against no penalty"]


@pytest.mark.parametrize(
    ("clips", "seeds", "verdict"),
    [
        ((-4.9, -2.0), (-4.2, -2.6), "not reproduced"),  # issue 12: its seed intervals overlapped, and it passed
        ((-4.9, -2.0), (-9.0, 2.2), "undecided"),  # too few seeds to tell
        ((-0.9, 0.4), (-0.8, 0.6), "reproduced"),
        ((-0.9, 0.4), (-1.1, 0.9), "undecided"),  # reaches beyond the margin
        ((-0.9, 0.4), None, "undecided"),
        ((0.2, 3.0), (0.1, 2.0), "reproduced"),
    ],
)
def test_no_loss_needs_the_full_paired_interval_inside_the_margin(clips, seeds, verdict, monkeypatch):
    assert no_loss(clips, seeds, monkeypatch) == verdict


def test_overlapping_seed_intervals_do_not_hide_a_loss_that_every_seed_has():
    """Seeds differ by 10 points and each loses 3: intervals of F overlap, the seed-paired difference is -3."""
    trials = [make_trial("none", seed, 0.7, shift=shift) for seed, shift in ((1, 0.0), (2, 0.1), (3, 0.2))]
    trials += [make_trial("ratio", seed, 0.7, shift=shift - 0.03) for seed, shift in ((1, 0.0), (2, 0.1), (3, 0.2))]
    assert verdicts(penalty=trials)["P2: no loss of F1 against no penalty"] == "undecided"  # the answers are equal
