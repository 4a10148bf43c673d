"""Filter machine-made labels, as MER-Caption's were filtered, as far as the parts are at hand.

The published low-level filter leaves out clips whose speaker is not seen and descriptions of unusual length; the
high-level one those whose description several classifiers contradict, in emotion or in sentiment. Here a face in enough
frames stands for the speaker, and other labellers (policies, chat models, people) for the classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.metrics.functional.polarity import load_polarity
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1

SENTIMENTS = {1: "positive", 0: "neutral", -1: "negative"}


@dataclass(frozen=True)
class Filters:
    """What a clip's labels must meet; 0 asks for nothing."""

    agreement: float = 0.0  # mean F1 against the other labellers
    faces: float = 0.0  # fraction of the searched frames that show a face
    trim: float = 0.0  # fraction of the reasons that is left out at each end of their length


def disagreements(labels: Mapping[str, str], others: Sequence[Mapping[str, str]], least: float) -> dict[str, str]:
    """Return why a clip's labels are not trusted, by name: the other labellers' words or sentiment differ.

    Args:
        labels: Labels of each clip, between commas.
        others: Those of other labellers, some clips or all.
        least: Mean F1 over the wheels (bundled lexicon) and the labellers that is enough.
    """
    polarity = load_polarity()
    pairs = [(name, parse_labels(other[name])) for other in others for name in labels if other.get(name)]
    own = [parse_labels(labels[name]) for name, _ in pairs]
    scores = batch_mean_set_f1([words for _, words in pairs], own, load_bundled())
    of_clip: dict[str, list[float]] = {}
    votes: dict[str, list[int]] = {}
    for (name, words), score in zip(pairs, scores, strict=True):
        of_clip.setdefault(name, []).append(score or 0.0)  # None: words that no wheel knows agree with nothing
        votes.setdefault(name, []).append(polarity.sentiment(words))
    faults: dict[str, str] = {}
    for name, given in labels.items():
        if name not in of_clip:
            faults[name] = "no other labeller"
        elif (mean := float(np.mean(of_clip[name]))) < least:
            faults[name] = f"labellers agree by F1 {mean:.2f}"
        elif votes[name].count(polarity.sentiment(parse_labels(given))) * 2 < len(votes[name]):
            faults[name] = f"most labellers do not find it {SENTIMENTS[polarity.sentiment(parse_labels(given))]}"
    return faults


def unusual_lengths(reasons: Mapping[str, str], trim: float) -> dict[str, str]:
    """Return the clips whose reason is among the shortest or longest, a fraction ``trim`` at each end.

    >>> unusual_lengths({"a": "x", "b": "x y", "c": "x y z", "d": "x y z x y z"}, 0.25)
    {'a': 'a reason of 1 words', 'd': 'a reason of 6 words'}
    """
    lengths = {name: len(reason.split()) for name, reason in reasons.items() if reason}
    ordered = sorted(lengths, key=lambda name: (lengths[name], name))
    cut = int(trim * len(ordered))
    left_out = {*ordered[:cut], *ordered[len(ordered) - cut :]}
    return {name: f"a reason of {lengths[name]} words" for name in lengths if name in left_out}
