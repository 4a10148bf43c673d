"""What each policy answered about the same few clips."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import TITLES, label
from affectgpt_r1.report.queries import Answer, Sweep, Trial
from affectgpt_r1.report.wheel_drawing import Overlap, clusters_of, overlap, wheel

_LONGEST_COMPLETION = 2000
_MOST_WORDS = 40


def completion_examples(sweeps: Sequence[Sweep], lexicon: Lexicon) -> dict[str, Any]:
    """Return what the template shows: a card per logged clip, with the answer of every choice's first seed."""
    clips = {clip.name: clip for sweep in sweeps for clip in sweep.clips}
    policies = [
        (titles, {answer.name: answer for answer in trial.answers}) for trial, titles in _first_seeds(sweeps).values()
    ]
    names = lexicon.clusters(1)
    return {
        "key": wheel(Overlap(*((name,) for name in names[:3])), lexicon),
        "lexicon": lexicon.name,
        "clusters": names,
        "cards": [
            {
                "name": clip.name,
                "subtitle": clip.subtitle,
                "target": clip.target,
                "frames": [base64.b64encode(frame).decode() for frame in clip.frames],
                "wheel": wheel(overlap(clip.target, clip.target, lexicon), lexicon, labels=True),
                "answers": [
                    _answer(titles, answers[clip.name], lexicon) for titles, answers in policies if clip.name in answers
                ],
            }
            for clip in clips.values()
        ],
    }


def _first_seeds(sweeps: Sequence[Sweep]) -> dict[str, tuple[Trial, list[str]]]:
    """Return the first seed of each choice by run id, with all titles of a trial that sweeps share."""
    policies: dict[str, tuple[Trial, list[str]]] = {}
    for sweep in sweeps:
        for choice in sweep.choices:
            trial = sweep.of(choice)[0]
            title = f"{TITLES[sweep.name]}: {label(sweep.name, choice)}"
            policies.setdefault(trial.run_id, (trial, []))[1].append(title)
    return policies


def _answer(titles: Sequence[str], answer: Answer, lexicon: Lexicon) -> dict[str, Any]:
    clusters = overlap(answer.openset, answer.target, lexicon)
    named = {"hit": clusters.hits, "missed": clusters.misses, "extra": clusters.extra}
    return {
        "titles": titles,
        "f1": None if answer.f1 is None else f"{100 * answer.f1:.0f}",
        "wheel": wheel(clusters, lexicon),
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
