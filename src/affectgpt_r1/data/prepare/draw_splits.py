"""Draw training, validation and test clips so that a speaker is in one of them only."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping

DRAWN = ("test", "validation", "train")


def draw_splits(groups: Mapping[str, str], known: Mapping[str, str], fractions: Mapping[str, float]) -> dict[str, str]:
    """Return the split of every clip.

    Groups are taken in an order that depends on their names alone, each for the split that lacks most. A group of
    which a clip is known stays with it, so that clips which are added later move no other.

    Args:
        groups: Speaker of each clip, or the clip's own name.
        known: Splits of some clips: the user's, or those of an earlier run.
        fractions: Of the clips that validate and that test; 0 draws none.

    >>> draw_splits({"a": "1", "b": "2", "c": "3"}, {}, {"validation": 0.1, "test": 0.1})
    {'a': 'train', 'b': 'test', 'c': 'validation'}
    """
    clips: dict[str, list[str]] = defaultdict(list)
    for name, group in groups.items():
        clips[group].append(name)
    splits = dict(known)
    enough = len(clips) >= len(DRAWN)
    targets = {name: max(share * len(groups), 1 if enough else 0) for name, share in fractions.items() if share}
    targets["train"] = len(groups) - sum(targets.values())
    counts = Counter(splits[name] for name in groups if name in splits)
    for group in sorted(clips, key=lambda group: hashlib.sha256(group.encode()).digest()):
        undrawn = [name for name in clips[group] if name not in splits]
        if not undrawn:
            continue
        earlier = next((splits[name] for name in clips[group] if name in splits), None)
        drawn = [split for split in DRAWN if split in targets]
        split = earlier or max(drawn, key=lambda split: targets[split] - counts[split])
        counts[split] += len(undrawn)
        splits.update(dict.fromkeys(undrawn, split))
    return {name: splits[name] for name in groups}
