"""Compiled lexicons on disk, each JSON after its checksum, so that workbooks are parsed once per machine."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path

from affectgpt_r1.emotion.wheels import Entry, Lexicon
from affectgpt_r1.errors import WriteError
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.untrusted_files import MOST_JSON_BYTES, parse_json, read_text

_log = logging.getLogger(__name__)
_COMPILER_VERSION = 4
_BETWEEN_FORMS = "\0"


def cached_lexicon(digest: str, compile_lexicon: Callable[[], Lexicon]) -> Lexicon:
    """Load the lexicon stored under ``digest``, or compile and store it.

    A cache that cannot be read or written is ignored. ``digest`` identifies the source's content.
    """
    path = cache_folder() / f"lexicon-v{_COMPILER_VERSION}-{digest}.json"
    try:
        checksum, _, stored = read_text(path, MOST_JSON_BYTES).partition("\n")
        if checksum != _checksum(stored.encode()):
            raise ValueError("not what its checksum says")
        return lexicon_from_json(stored)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        _log.debug("the cached lexicon %s is ignored: %s", path, error)
    lexicon = compile_lexicon()
    try:
        text = lexicon_to_json(lexicon)
        write_text(path, f"{_checksum(text.encode())}\n{text}", flush=False)
    except WriteError as error:
        _log.debug("the lexicon is not cached: %s", error)
    return lexicon


def _checksum(text: bytes) -> str:
    return f"{zlib.crc32(text):08x}"


def cache_folder() -> Path:
    """Return the package's folder below the user's cache directory (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "affectgpt_r1"


def lexicon_to_json(lexicon: Lexicon) -> str:
    """Return a lexicon as one JSON object."""
    # Many forms share an entry and many entries share their masks: each is written once; forms are one string.
    entries = {entry: row for row, entry in enumerate(dict.fromkeys(lexicon.entries.values()))}
    masks = {pair: row for row, pair in enumerate(dict.fromkeys((entry.level1, entry.level2) for entry in entries))}
    content = {
        "name": lexicon.name,
        "cluster_names": lexicon.cluster_names,
        "masks": list(masks),
        "entries": [(entry.base, entry.synonym, masks[entry.level1, entry.level2]) for entry in entries],
        "forms": _BETWEEN_FORMS.join(lexicon.entries),
        "entry_of_form": [entries[entry] for entry in lexicon.entries.values()],
    }
    return json.dumps(content, separators=(",", ":"))


def lexicon_from_json(text: str) -> Lexicon:
    """Invert :func:`lexicon_to_json`.

    Raises:
        ValueError, LookupError, TypeError: A part is missing, damaged or of another shape.
    """
    content = parse_json(text)
    masks = [(tuple(level1), tuple(level2)) for level1, level2 in content["masks"]]
    entries = [Entry(base, synonym, *masks[row]) for base, synonym, row in content["entries"]]
    forms = content["forms"].split(_BETWEEN_FORMS) if content["entry_of_form"] else []
    return Lexicon(
        name=content["name"],
        cluster_names=tuple(tuple(tuple(names) for names in level) for level in content["cluster_names"]),
        entries=dict(zip(forms, map(entries.__getitem__, content["entry_of_form"]), strict=True)),
    )
