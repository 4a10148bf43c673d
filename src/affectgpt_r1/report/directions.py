"""Whether the sweeps show what the papers found, by rules that are printed next to the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from affectgpt_r1.report.choices import PENALTIES, label
from affectgpt_r1.report.formats import between, signed
from affectgpt_r1.report.paired_comparison import compare
from affectgpt_r1.report.queries import Sweep
from affectgpt_r1.report.statistics import Estimate, PairedTest, mean_interval, paired_t_test

REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN = "reproduced", "not reproduced", "undecided", "not run"
MARGIN_POINTS = 1.0
WORDS_MARGIN = 0.5
RULES = {
    "above": "reproduced: both 95 % intervals of the difference (clips, seeds) are above 0; "
    "not: both are below 0; else undecided",
    "not below": "reproduced: both 95 % intervals of the difference (clips, seeds) are above "
    f"−{MARGIN_POINTS:g} point; not: both are below 0; else undecided",
    "words grow": "reproduced: the 95 % interval over seeds of words minus target is above 0; "
    "not: it is at or below 0; else undecided",
    "words come back": "reproduced: words grow without a penalty, the seed-paired 95 % interval of words with it minus "
    f"words without it is below 0, and the one of words minus target is within ±{WORDS_MARGIN:g} words; not: that "
    "one is outside; else undecided",
}

Verdict = dict[str, Any]


def judge_directions(sweeps: Mapping[str, Sweep]) -> list[Verdict]:
    """Judge each published direction.

    Returns:
        Dicts with ``direction``, ``verdict``, ``values`` (in words), and ``rule``, a key of :data:`RULES`.
    """
    reward, reasoning, penalty = (sweeps[name] for name in ("reward", "reasoning", "penalty"))
    verdicts = [
        _above(reward, "accuracy_format", "accuracy", "accuracy + format above accuracy alone"),
        _above(reward, "accuracy_format", "format", "accuracy + format above format alone"),
        _above(reward, "accuracy_format", "all", "all five below accuracy + format"),
        _not_below(reasoning, "no_think", "think", "no-think at or above think"),
        _words_grow(penalty),
    ]
    for choice in PENALTIES:
        direction = f"{label('penalty', choice)}: no loss of F1 against no penalty"
        verdicts += [_words_come_back(penalty, choice), _not_below(penalty, choice, "none", direction)]
    if objective := sweeps.get("objective"):
        verdicts += [
            _above(objective, "mer_r1", "accuracy", "recall and precision apart above accuracy (MER-R1)"),
            _above(objective, "chord_low", "accuracy", "supervision mixed in above GRPO alone (CHORD), μ 0.1"),
            _above(objective, "chord_high", "accuracy", "supervision mixed in above GRPO alone (CHORD), μ 0.5"),
            _above(objective, "chord_cosine", "accuracy", "supervision mixed in above GRPO alone (CHORD), μ falling"),
        ]
    return verdicts


def _above(sweep: Sweep, first: str, second: str, direction: str) -> Verdict:
    bounds, values = _difference(sweep, first, second)
    return _verdict(direction, "above", _side(bounds, reproduced=0.0), values)


def _not_below(sweep: Sweep, first: str, second: str, direction: str) -> Verdict:
    bounds, values = _difference(sweep, first, second)
    return _verdict(direction, "not below", _side(bounds, reproduced=-MARGIN_POINTS / 100), values)


def _side(bounds: list[tuple[float, float]] | None, reproduced: float) -> str:
    if bounds is None:
        return NOT_RUN
    if len(bounds) == 2 and all(low > reproduced for low, _ in bounds):
        return REPRODUCED
    return NOT_REPRODUCED if len(bounds) == 2 and all(high < 0 for _, high in bounds) else UNDECIDED


def _difference(sweep: Sweep, first: str, second: str) -> tuple[list[tuple[float, float]] | None, str]:
    """Return the bounds of the tests that could be made, None if a choice was not run; and the same in words."""
    comparison = compare(sweep, first, second)
    if comparison is None:
        return None, ""
    tests = [("clips", comparison.clips), ("seeds", comparison.seeds)]
    made = [(name, test.low, test.high) for name, test in tests if test is not None]
    means = [mean_interval([trial.metrics["test/f1"] for trial in sweep.of(choice)]).mean for choice in (first, second)]
    parts = [f"{name} {between(low, high, 100)}" for name, low, high in made]
    names = f"{label(sweep.name, first)} − {label(sweep.name, second)}"
    values = f"{names}: {signed(100 * (means[0] - means[1]))} points"
    return [(low, high) for _, low, high in made], "; ".join([values, *parts])


def _excess_words(sweep: Sweep, choice: str) -> Estimate | None:
    """Estimate words minus the target's words of a choice, over its seeds."""
    values = _excess_by_seed(sweep, choice)
    return mean_interval(list(values.values())) if values else None


def _paired_words(sweep: Sweep, first: str, second: str) -> PairedTest | None:
    """Test words of one choice minus another's, seed by seed."""
    ours, theirs = _excess_by_seed(sweep, first), _excess_by_seed(sweep, second)
    return paired_t_test([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def _excess_by_seed(sweep: Sweep, choice: str) -> dict[int, float]:
    names = ("test/answers/distinct_words", "test/answers/target_words")
    return {
        trial.seed: trial.metrics[names[0]] - trial.metrics[names[1]]
        for trial in sweep.of(choice)
        if set(names) <= trial.metrics.keys()
    }


def _words_grow(sweep: Sweep) -> Verdict:
    excess = _excess_words(sweep, "none")
    if excess is None:
        verdict = NOT_RUN
    elif excess.low is None or excess.high is None:
        verdict = UNDECIDED
    else:
        verdict = REPRODUCED if excess.low > 0 else NOT_REPRODUCED if excess.high <= 0 else UNDECIDED
    return _verdict("without a penalty, words grow past the target’s", "words grow", verdict, _in_words(excess))


def _words_come_back(sweep: Sweep, choice: str) -> Verdict:
    excess, drop = _excess_words(sweep, choice), _paired_words(sweep, choice, "none")
    if excess is None:
        verdict = NOT_RUN
    elif excess.low is None or excess.high is None:
        verdict = UNDECIDED
    elif excess.low >= -WORDS_MARGIN and excess.high <= WORDS_MARGIN:
        grew = _words_grow(sweep)["verdict"] == REPRODUCED
        verdict = REPRODUCED if grew and drop is not None and drop.high < 0 else UNDECIDED
    else:
        verdict = NOT_REPRODUCED if excess.low > WORDS_MARGIN or excess.high < -WORDS_MARGIN else UNDECIDED
    direction = f"{label('penalty', choice)}: words within {WORDS_MARGIN:g} of the target’s"
    against = f"; against no penalty {signed(drop.difference)} {between(drop.low, drop.high)}" if drop else ""
    return _verdict(direction, "words come back", verdict, _in_words(excess) + against)


def _in_words(excess: Estimate | None) -> str:
    if excess is None:
        return ""
    return f"words − target: {signed(excess.mean)} {between(excess.low, excess.high)}".strip()


def _verdict(direction: str, rule: str, verdict: str, values: str) -> Verdict:
    return {"direction": direction, "verdict": verdict, "values": values, "rule": rule}
