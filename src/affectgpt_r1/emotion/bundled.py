"""The lexicon that comes with the package."""

from __future__ import annotations

from functools import cache
from importlib import resources

from affectgpt_r1.emotion.cache import lexicon_from_json
from affectgpt_r1.emotion.wheels import Lexicon


@cache
def load_bundled() -> Lexicon:
    """Our own lexicon: five wheels after the psychological literature, sources in the file's header."""
    file = resources.files("affectgpt_r1.emotion") / "resources" / "bundled.json"
    return lexicon_from_json(file.read_text(encoding="utf-8"))
