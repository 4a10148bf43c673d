"""The lexicon that comes with the package."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from affectgpt_r1.emotion.wheels import Entry, Lexicon


@cache
def load_bundled() -> Lexicon:
    """Load our own lexicon: five wheels after the psychological literature, sources in the file's header.

    In case 1 a form counts as the word that it inflects, in case 2 as the name of its group of near-synonyms.
    """
    file = resources.files("affectgpt_r1.emotion") / "resources" / "bundled.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    groups = [(group["name"], tuple(group["level1"]), tuple(group["level2"])) for group in content["groups"]]
    return Lexicon(
        name="bundled",
        cluster_names=tuple(tuple(tuple(names) for names in level) for level in content["cluster_names"]),
        entries={
            form: Entry(word, *groups[group]) for word, (group, forms) in content["words"].items() for form in forms
        },
    )
