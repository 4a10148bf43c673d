"""Normalise what is said for every command: one Unicode form, and a limit of length."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

MOST_CHARACTERS = (
    2000  # two minutes of speech; a film's would fill memory, and means nothing to a policy of short clips
)


def limited(said: str) -> str:
    r"""Return the first ``MOST_CHARACTERS`` of a text in the composed normal form (NFC), which tokenizers know.

    >>> len(limited("u\u0308")), len(limited("No. " * 1000))
    (1, 2000)
    """
    return unicodedata.normalize("NFC", said)[:MOST_CHARACTERS]


def limited_subtitles(path: Path, said: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return the subtitles of ``names`` by :func:`limited`; one warning counts those that are cut.

    ``said`` is what the file ``path`` holds, by clip name, in file order.
    """
    row_of = {name: row for row, name in enumerate(said, start=2)}  # as a spreadsheet shows them
    long = [name for name in names if len(unicodedata.normalize("NFC", said[name])) > MOST_CHARACTERS]
    if long:
        first = f"row {row_of[long[0]]} ({long[0]}) with {len(said[long[0]]):,}"
        log.warning(
            "%s: %d of %d subtitles are longer than %s characters and cut there, the first is %s; is a cell a full "
            "transcript?",
            path,
            len(long),
            len(names),
            f"{MOST_CHARACTERS:,}",
            first,
        )
    return {name: limited(said[name]) for name in names}
