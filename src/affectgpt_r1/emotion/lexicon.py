"""Where a lexicon comes from: the package, a named published version, or a folder."""

from __future__ import annotations

import os
from pathlib import Path

from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.emotion.published_lexicon import read_published
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import LexiconError

__all__ = ["PUBLISHED_VERSIONS", "ROOT_VARIABLE", "Lexicon", "load_lexicon"]

PUBLISHED_VERSIONS = ("mer2025", "mer2026")
ROOT_VARIABLE = "AFFECTGPT_WHEELS"
_DEFAULT_ROOT = Path("data", "emotion_wheel")


def load_lexicon(spec: str | Path) -> Lexicon:
    """Load the lexicon that ``spec`` names.

    Args:
        spec: ``"bundled"`` for the package's own; ``"mer2025"`` or ``"mer2026"`` for a published one, looked up below
            the folder that the environment variable ``AFFECTGPT_WHEELS`` names, else below
            ``data/emotion_wheel/`` of the working directory; or the path of a folder in the published layout.

    Raises:
        LexiconError: It does not exist, or one of its files is missing or damaged.
    """
    if spec == "bundled":
        return load_bundled()
    if spec in PUBLISHED_VERSIONS:
        return read_published(_published_folder(str(spec)), name=str(spec))
    folder = Path(spec)
    if not str(spec) or not folder.is_dir():
        raise LexiconError(
            f"no lexicon {str(spec)!r}: give 'bundled', {' or '.join(map(repr, PUBLISHED_VERSIONS))}, "
            "or an existing folder with wheel1.xlsx to wheel5.xlsx, synonym.xlsx and format.csv"
        )
    return read_published(folder, name=folder.name)


def _published_folder(version: str) -> Path:
    root = os.environ.get(ROOT_VARIABLE)
    folder = Path(root or _DEFAULT_ROOT).absolute() / version
    if folder.is_dir():
        return folder
    state = f"it is {root!r}" if root else "it is not set"
    raise LexiconError(
        f"the published lexicon {version!r} is not at {folder}: set the environment variable {ROOT_VARIABLE} ({state}) "
        f"to the folder that holds {version}/, or put it below {_DEFAULT_ROOT}/, "
        "or use 'bundled'"
    )
