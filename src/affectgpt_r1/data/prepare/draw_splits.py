"""Draw training, validation and test clips so that a speaker is in one of them only."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping

LARGEST = 1.5  # times the clips that a split is to have; more of one speaker would leave too few to train on


def draw_splits(groups: Mapping[str, str], known: Mapping[str, str], fractions: Mapping[str, float]) -> dict[str, str]:
    """Return the split of every clip.

    Groups are taken in an order that depends on their names alone, for the test clips until these are enough, then for
    the validation clips; one that is too large for them trains. A group of which a clip is known stays with it, so that
    clips which are added later move no other.

    Args:
        groups: Speaker of each clip, or the clip's own name.
        known: Splits of some clips, from an earlier run.
        fractions: Of the clips, for each split that is drawn; 0 draws none.

    >>> draw_splits({"a": "1", "b": "2", "c": "3"}, {}, {"test": 0.1, "validation": 0.1})
    {'a': 'validation', 'b': 'train', 'c': 'test'}
    """
    clips: dict[str, list[str]] = defaultdict(list)
    for name, group in groups.items():
        clips[group].append(name)
    smallest = min(map(len, clips.values()), default=0)
    targets = {split: max(share * len(groups), smallest) for split, share in fractions.items() if share}
    if len(clips) <= len(targets):
        targets = {}  # or nothing would be left to train on
    splits = {name: known[name] for name in groups if name in known}
    counts = Counter(splits.values())
    for group in sorted(clips, key=lambda group: hashlib.sha256(group.encode()).digest()):
        undrawn = [name for name in clips[group] if name not in splits]
        if not undrawn:
            continue
        earlier = next((splits[name] for name in clips[group] if name in splits), None)
        lacking = (
            split
            for split, target in targets.items()
            if counts[split] < target and counts[split] + len(undrawn) <= max(LARGEST * target, smallest)
        )
        split = earlier or next(lacking, "train")
        counts[split] += len(undrawn)
        splits.update(dict.fromkeys(undrawn, split))
    return {name: splits[name] for name in groups}
