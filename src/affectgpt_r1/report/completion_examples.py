"""What each policy answered about the same few clips."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import label, title
from affectgpt_r1.report.queries import Answer, Clip, Sweep, Trial
from affectgpt_r1.report.wheel_drawing import Overlap, clusters_of, overlap, wheel

_LONGEST_COMPLETION = 2000
_MOST_WORDS = 40
_MOST_ANSWERS = 1800  # on a page of about 3 MB
_DIFFERENT = 0.5  # of F1


SORTS = {"spread": "largest disagreement", "worst": "lowest mean F1", "name": "name"}
FILTERS = {
    "all": "all clips",
    "differ": f"F1 differs by {100 * _DIFFERENT:.0f} points or more",
    "missed": "an answer hits nothing",
    "repeated": "an answer repeats words",
    "empty": "an answer has no words",
}
"""Orders and filters of the cards by key, which the template makes radio buttons; the page runs no script."""


def completion_examples(sweeps: Sequence[Sweep], lexicon: Lexicon) -> dict[str, Any]:
    """Return what the template shows: a card per clip, with the answer of every choice's first seed.

    Of more clips than ``_MOST_ANSWERS`` allows, those that have frames, and those with the largest disagreement.
    """
    policies = [
        (titles, {answer.name: answer for answer in trial.answers}) for trial, titles in _first_seeds(sweeps).values()
    ]
    clips: dict[str, Clip] = {
        name: Clip(name, "", answer.target, ()) for _, answers in policies for name, answer in answers.items()
    }
    for clip in (clip for sweep in sweeps for clip in sweep.clips):
        if clip.frames or clip.name not in clips or not clips[clip.name].frames:
            clips[clip.name] = clip
    scores = {name: [answers[name].f1 for _, answers in policies if name in answers] for name in clips}
    spreads = {name: spread(scores[name]) for name in clips}
    most = max(1, _MOST_ANSWERS // max(1, len(policies)))
    shown = sorted(clips, key=lambda name: (not clips[name].frames, -spreads[name], name))[:most]
    shown.sort(key=lambda name: (-spreads[name], not clips[name].frames, name))
    orders = {
        "spread": shown,
        "worst": sorted(shown, key=lambda name: fmean([f1 for f1 in scores[name] if f1 is not None] or [1.0])),
        "name": sorted(shown),
    }
    ranks = {key: {name: place for place, name in enumerate(order)} for key, order in orders.items()}
    names = lexicon.clusters(1)
    return {
        "key": wheel(Overlap(*((name,) for name in names[:3])), lexicon),
        "lexicon": lexicon.name,
        "clusters": names,
        "total": len(clips),
        "cards": [
            {
                "name": name,
                "subtitle": clips[name].subtitle,
                "target": clips[name].target,
                "frames": [base64.b64encode(frame).decode() for frame in clips[name].frames],
                "kinds": _kinds([answers[name] for _, answers in policies if name in answers], lexicon),
                "ranks": {key: ranks[key][name] for key in SORTS},
                "spread": f"{100 * spreads[name]:.0f}",
                "answers": [_answer(titles, answers[name], lexicon) for titles, answers in policies if name in answers],
            }
            for name in shown
        ],
    }


def spread(scores: Sequence[float | None]) -> float:
    """Return the difference between the highest and the lowest score of a clip, 0 for fewer than two.

    >>> spread([0.25, None, 0.75]), spread([0.5])
    (0.5, 0.0)
    """
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if known else 0.0


def _kinds(answers: Sequence[Answer], lexicon: Lexicon) -> list[str]:
    """Return the keys of :data:`FILTERS` that let a clip through."""
    tests = {
        "differ": spread([answer.f1 for answer in answers]) >= _DIFFERENT,
        "missed": any(not overlap(answer.openset, answer.target, lexicon).hits for answer in answers),
        "repeated": any(len(set(answer.openset)) < len(answer.openset) for answer in answers),
        "empty": any(not answer.openset for answer in answers),
    }
    return [key for key, holds in tests.items() if holds]


def _first_seeds(sweeps: Sequence[Sweep]) -> dict[str, tuple[Trial, list[str]]]:
    """Return the first seed of each choice by run id, with all titles of a trial that sweeps share."""
    policies: dict[str, tuple[Trial, list[str]]] = {}
    for sweep in sweeps:
        for choice in sweep.choices:
            trial = sweep.of(choice)[0]
            name = (
                label(sweep.name, choice) if len(sweeps) == 1 else f"{title(sweep.name)}: {label(sweep.name, choice)}"
            )
            policies.setdefault(trial.run_id, (trial, []))[1].append(name)
    return policies


def _answer(titles: Sequence[str], answer: Answer, lexicon: Lexicon) -> dict[str, Any]:
    clusters = overlap(answer.openset, answer.target, lexicon)
    named = {"hit": clusters.hits, "missed": clusters.misses, "extra": clusters.extra}
    return {
        "titles": titles,
        "f1": None if answer.f1 is None else f"{100 * answer.f1:.0f}",
        "wheel": wheel(clusters, lexicon, (*answer.openset[:_MOST_WORDS], *answer.target)),
        "words": [(_kind(word, answer.target, lexicon), word) for word in answer.openset[:_MOST_WORDS]],
        "more_words": max(0, len(answer.openset) - _MOST_WORDS),
        # The wheel in words, so that no reader depends on its drawing.
        "sectors": "; ".join(f"{kind}: {', '.join(part)}" for kind, part in named.items() if part),
        "completion": answer.completion[:_LONGEST_COMPLETION],
        "more_characters": max(0, len(answer.completion) - _LONGEST_COMPLETION),
    }


def _kind(word: str, target: Sequence[str], lexicon: Lexicon) -> str:
    if clusters_of([word], lexicon) & clusters_of(target, lexicon):
        return "hit"
    return "extra" if word in lexicon else "unmapped"
